"""Feature losses whose bridge is part of the method: FitNets, activation boundaries, overhaul, information.

Shapes: B batch, T tokens, D width, C channels, H height, W width of a map.
Features are [B, D], [B, T, D] with a mask [B, T], or [B, C, H, W]; a row is the mean over its real tokens or positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.ground.precision import full_precision
from potstill.losses.feature import hidden_mse
from potstill.losses.layers import Bridge, MapNorm, PairedLoss, VectorNorm, mask_for, match_maps, width_of
from potstill.losses.options import LAST_LAYER, LayerPair, between, positive
from potstill.losses.reduction import Reduction, over_rows


@full_precision
def fitnet(student_hint: Tensor, teacher_hint: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Hint loss: mean squared difference between the regressed student feature and the teacher's hint.

    Source: Romero et al. 2015 (arXiv 1412.6550), eq. 3, with the mean over elements for its ½ Σ.
    Shapes as in `hidden_mse`; the regressor is in the module.
    """
    return hidden_mse(student_hint, teacher_hint, mask=mask, reduction=reduction)


@full_precision
def ab(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    margin: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Activation boundaries: 1[t>0] · relu(μ − s)² + 1[t≤0] · relu(μ + s)², mean over elements.

    Source: Heo et al. 2019 (arXiv 1811.03233), with the mean for its sum.

    Args:
        student_feature: Pre-activation values in the teacher's shape.
        teacher_feature: [B, D], [B, T, D] or [B, C, H, W].
        margin: μ.
    """
    signed = torch.where(teacher_feature > 0, -student_feature, student_feature)
    values = F.relu(margin + signed).square()
    return over_rows(values.mean(1 if values.dim() == 4 else -1), mask, reduction)


@full_precision
def ofd(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    margin: Tensor,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Overhaul: partial squared distance to max(t, m), zero where both are at or below zero and s ≤ t; mean over elements.

    Source: Heo et al. 2019 (arXiv 1904.01866), with the mean for its sum. Shapes as in `ab`.

    Args:
        margin: m [C], the mean of the teacher's negative values per channel, at or below zero.
    """
    shape = (1, -1, 1, 1) if teacher_feature.dim() == 4 else (-1,)
    target = torch.maximum(teacher_feature, margin.view(shape))
    counts = (student_feature > target) | (target > 0)
    values = (student_feature - target).square() * counts
    return over_rows(values.mean(1 if values.dim() == 4 else -1), mask, reduction)


@full_precision
def vid(
    student_mean: Tensor,
    teacher_feature: Tensor,
    variance: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Variational information: ½ [log σ_c² + (t − μ(s))² / σ_c²], mean over elements; it may be negative.

    Source: Ahn et al. 2019 (arXiv 1904.05835).

    Args:
        student_mean: μ(s) in the teacher's shape.
        teacher_feature: [B, D], [B, T, D] or [B, C, H, W].
        variance: σ² [C], positive.
    """
    per_channel = variance.view((1, -1, 1, 1) if teacher_feature.dim() == 4 else (-1,))
    values = 0.5 * (per_channel.log() + (teacher_feature - student_mean).square() / per_channel)
    return over_rows(values.mean(1 if values.dim() == 4 else -1), mask, reduction)


def _kernel(student_size: int, teacher_size: int) -> tuple[int, int]:
    large, small = max(student_size, teacher_size), min(student_size, teacher_size)
    stride = large // small
    return large - (small - 1) * stride, stride


class Regressor(nn.Module):
    """A strided (or transposed) convolution from the student's map to exactly the teacher's grid; linear for vectors."""

    def __init__(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]) -> None:
        super().__init__()
        student_width, teacher_width = width_of(student_shape), width_of(teacher_shape)
        self.layer: nn.Module
        if len(student_shape) != 4:
            self.layer = nn.Linear(student_width, teacher_width)
            return
        (rows, row_stride), (columns, column_stride) = (_kernel(student_shape[axis], teacher_shape[axis]) for axis in (2, 3))
        shrinks = student_shape[2] >= teacher_shape[2]
        kind = nn.Conv2d if shrinks else nn.ConvTranspose2d
        self.layer = kind(student_width, teacher_width, (rows, columns), (row_stride, column_stride))

    def forward(self, values: Tensor) -> Tensor:
        """The regressed values, [B, D'], [B, T, D'] or [B, C', H', W']."""
        return self.layer(values.to(next(self.layer.parameters()).dtype))


class FitNet(PairedLoss):
    """Hints through a regressor; see `functional.fitnet`. Source: Romero et al. 2015 (arXiv 1412.6550).

    The regressor is always there, a convolution whose kernel lands on the teacher's grid.
    """

    formula = staticmethod(fitnet)

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return Regressor(student_shape, teacher_shape)


class NormedBridge(Bridge):
    """A linear map over channels and a batch norm, as AB and OFD connect the student."""

    def __init__(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]) -> None:
        is_map, width = len(student_shape) == 4, width_of(teacher_shape)
        super().__init__(width_of(student_shape), width, is_map=is_map, bias=False)
        self.norm = MapNorm(width) if is_map else VectorNorm(width)

    def forward(self, values: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """The connected values; pads, where the mask [B, T] is false, stay out of the norm's statistics."""
        projected = super().forward(values)
        if projected.dim() != 3:
            return self.norm(projected)
        if token_mask is None:
            return self.norm(projected.flatten(0, 1)).view_as(projected)
        kept = token_mask.bool()
        return projected.masked_scatter(kept.unsqueeze(-1), self.norm(projected[kept]).to(projected.dtype))


class AB(PairedLoss):
    """Activation boundaries; see `functional.ab`. Source: Heo et al. 2019 (arXiv 1811.03233).

    Tap values before the activation (for example ``module:layer4.1.bn2``); after a ReLU the boundary is lost.
    """

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER, margin: float = 1.0) -> None:
        super().__init__(layers=layers)
        self.margin = positive("margin", margin)

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return NormedBridge(student_shape, teacher_shape)

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        mask = mask_for(teacher_value, token_mask)
        student_value, teacher_value = match_maps(self.bridges[index](student_value, mask), teacher_value)
        return ab(student_value, teacher_value, margin=self.margin, mask=mask, reduction="sum")


class OverhaulBridge(NormedBridge):
    """The connection of OFD, and the running mean of the teacher's negative values per channel."""

    negative_sum: Tensor
    negative_count: Tensor

    def __init__(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]) -> None:
        super().__init__(student_shape, teacher_shape)
        width = width_of(teacher_shape)
        self.register_buffer("negative_sum", torch.zeros(width))
        self.register_buffer("negative_count", torch.zeros(width))

    def margin(self, teacher_value: Tensor, mask: Tensor | None) -> Tensor:
        """m [C] over all training batches seen so far, this one included."""
        negative = teacher_value < 0 if mask is None else (teacher_value < 0) & mask.bool().unsqueeze(-1)
        axes = (0, 2, 3) if teacher_value.dim() == 4 else tuple(range(teacher_value.dim() - 1))
        if self.training:
            self.negative_sum += (teacher_value.float() * negative).sum(axes)
            self.negative_count += negative.sum(axes)
        return self.negative_sum / self.negative_count.clamp(min=1)


class OFD(PairedLoss):
    """Overhaul of feature distillation; see `functional.ofd`. Source: Heo et al. 2019 (arXiv 1904.01866).

    The margin is measured on the teacher's training batches. Tap values before the activation.
    """

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return OverhaulBridge(student_shape, teacher_shape)

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        bridge = self.bridges[index]
        assert isinstance(bridge, OverhaulBridge)
        mask = mask_for(teacher_value, token_mask)
        margin = bridge.margin(teacher_value, mask)
        student_value, teacher_value = match_maps(bridge(student_value, mask), teacher_value)
        return ofd(student_value, teacher_value, margin=margin, mask=mask, reduction="sum")


class GaussianBridge(nn.Module):
    """μ(s), three linear maps with ReLU between, and one learned variance per channel."""

    def __init__(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], variance: float) -> None:
        super().__init__()
        student_width, width = width_of(student_shape), width_of(teacher_shape)
        widths = [(student_width, width), (width, width), (width, width)]
        is_map = len(student_shape) == 4
        first, second, third = [nn.Conv2d(*pair, 1) if is_map else nn.Linear(*pair) for pair in widths]
        self.mean = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        self.floor = 1e-5
        start = variance - self.floor  # softplus(scale) at the start
        self.scale = nn.Parameter(torch.full((width,), start + math.log(-math.expm1(-start))))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """μ(s) in the teacher's shape, and σ² [C]."""
        return self.mean(values.to(self.scale.dtype)), F.softplus(self.scale.float()) + self.floor


class VID(PairedLoss):
    """Variational information; see `functional.vid`. Source: Ahn et al. 2019 (arXiv 1904.05835).

    Args:
        initial_variance: σ² of every channel at the start.
    """

    may_be_negative: ClassVar[bool] = True

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER, initial_variance: float = 5.0) -> None:
        super().__init__(layers=layers)
        self.initial_variance = between("initial_variance", initial_variance, 1e-4, 1e6)

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return GaussianBridge(student_shape, teacher_shape, self.initial_variance)

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        student_value, teacher_value = match_maps(student_value, teacher_value)
        mean, variance = self.bridges[index](student_value)
        return vid(mean, teacher_value, variance, mask=mask_for(teacher_value, token_mask), reduction="sum")
