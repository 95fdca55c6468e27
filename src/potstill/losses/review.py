"""Knowledge review: every student stage learns from the teacher's stages up to its own depth.

Shapes: B batch, C channels, H height, W width of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.ground.precision import full_precision
from potstill.losses.contract import LossValue, Shapes, StudentView
from potstill.losses.layers import MapNorm, PairedLoss
from potstill.losses.options import LayerPair, between
from potstill.losses.reduction import Reduction, over_rows

LAST_STAGES: tuple[LayerPair, ...] = ((-3, -3), (-2, -2), (-1, -1))
PYRAMID = (4, 2, 1)


@full_precision
def review_kd(student_map: Tensor, teacher_map: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Hierarchical context loss: mean squares at full size and of maps pooled to 4, 2, 1, with weights 1, ½, ¼, ⅛, normalised.

    Source: Chen et al. 2021 (arXiv 2104.09044).

    Args:
        student_map: Fused student map [B, C, H, W].
        teacher_map: [B, C, H, W].
    """
    whole = difference = student_map - teacher_map
    total, weight, sum_weights = _mean_square(whole), 1.0, 1.0
    for size in PYRAMID:
        if size >= student_map.shape[2]:
            continue
        weight /= 2
        difference = F.adaptive_avg_pool2d(difference, size)
        total, sum_weights = total + weight * _mean_square(difference), sum_weights + weight
        if whole.shape[2] % size or whole.shape[3] % size:
            difference = whole  # a pool of unequal parts cannot be pooled again
    return over_rows(total / sum_weights, None, reduction)


def _mean_square(values: Tensor) -> Tensor:
    return values.square().mean((1, 2, 3))


class AttentionFusion(nn.Module):
    """Fuses a stage with what comes from the deeper ones, by two learned attention maps; the deepest has none."""

    def __init__(self, student_channels: int, middle_channels: int, teacher_channels: int, *, is_deepest: bool) -> None:
        super().__init__()
        self.teacher_channels = teacher_channels
        self.inner = nn.Sequential(nn.Conv2d(student_channels, middle_channels, 1, bias=False), MapNorm(middle_channels))
        self.outer = nn.Sequential(
            nn.Conv2d(middle_channels, teacher_channels, 3, padding=1, bias=False), MapNorm(teacher_channels)
        )
        self.attention = None if is_deepest else nn.Sequential(nn.Conv2d(2 * middle_channels, 2, 1), nn.Sigmoid())

    def forward(self, student_map: Tensor, deeper: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The output in the teacher's channels and grid, and the fused map, on that grid, to hand to the next stage."""
        weight = self.inner[0].weight
        assert isinstance(weight, Tensor)
        # 1 × 1 convolutions of wide maps are twice as fast with the channels innermost
        fused = self.inner(student_map.to(weight.dtype, memory_format=torch.channels_last))
        if self.attention is not None and deeper is not None:
            own, other = self.gates(fused, deeper)
            fused = fused * own + F.interpolate(deeper, fused.shape[-2:], mode="nearest") * other
        if tuple(fused.shape[-2:]) != tuple(grid):
            fused = F.interpolate(fused, grid, mode="nearest")
        return self.outer(fused), fused

    def gates(self, fused: Tensor, deeper: Tensor) -> tuple[Tensor, Tensor]:
        """Attention [B, 1, H, W] on the stage and on what comes from the deeper ones.

        A 1 × 1 convolution of two joined maps is the sum of one of each, and of the smaller map it is made before that grows.
        """
        assert self.attention is not None
        layer = self.attention[0]
        assert isinstance(layer, nn.Conv2d)
        middle = fused.shape[1]
        below = F.interpolate(F.conv2d(deeper, layer.weight[:, middle:]), fused.shape[-2:], mode="nearest")
        own, other = torch.sigmoid(F.conv2d(fused, layer.weight[:, :middle], layer.bias) + below).split(1, dim=1)
        return own, other


class ReviewKD(PairedLoss):
    """Knowledge review; see `functional.review_kd`. Source: Chen et al. 2021 (arXiv 2104.09044).

    Stages are read as their taps give them, behind the last ReLU where a stage ends in one; the authors read before it.

    Args:
        layers: Pairs of stages from shallow to deep; the last three by default.
        middle_channels: Most channels in which stages are fused.
        pooled: Whether the deepest stage's mean over positions is one more stage behind it, as in the authors' code.
    """

    ranks: ClassVar[tuple[int, ...]] = (4,)

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_STAGES, middle_channels: int = 512, pooled: bool = True) -> None:
        super().__init__(layers=layers)
        self.pooled = pooled
        self.middle_channels = int(between("middle_channels", middle_channels, 1, 65536))

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        deepest = student.taps.get(self.names()[-1][0], (0, self.middle_channels))
        self._middle = min(self.middle_channels, deepest[1])
        self._built = 0
        super().prepare(student, teacher, num_rows=num_rows)
        if self.pooled:
            last = self.bridges[-1]
            assert isinstance(last, AttentionFusion)
            self.bridges.append(AttentionFusion(deepest[1], self._middle, last.teacher_channels, is_deepest=True))

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        self._built += 1
        is_deepest = self._built == len(self.layers) and not self.pooled
        return AttentionFusion(student_shape[1], self._middle, teacher_shape[1], is_deepest=is_deepest)

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Mean over stages of the sum over rows, from the deepest stage to the shallowest."""
        maps, deeper, terms = self.pairs(student, teacher), None, []
        if self.pooled:
            maps.append((maps[-1][0].mean((2, 3), keepdim=True), maps[-1][1].mean((2, 3), keepdim=True)))
        for (student_map, teacher_map), fusion in zip(reversed(maps), reversed(list(self.bridges)), strict=True):
            output, deeper = fusion(student_map, deeper, tuple(teacher_map.shape[-2:]))
            terms.append(review_kd(output, teacher_map, reduction="sum"))
        return LossValue(sum=torch.stack(terms).mean(), count=float(student.logits.shape[0]))
