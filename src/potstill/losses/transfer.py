"""Feature losses on translated or projected features: factors, primes, projectors, the reused classifier.

Shapes: B batch, T tokens, D width, C channels, H height, W width of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.ground.precision import full_precision
from potstill.losses.feature import hidden_mse
from potstill.losses.layers import Bridge, MapNorm, PairedLoss, VectorNorm, mask_for, match_maps, width_of
from potstill.losses.options import HEAD_INPUT, LAST_LAYER, LayerPair, between, one_of, positive
from potstill.losses.reduction import Reduction, of_batch, over_rows

STAGES = ("joint", "paraphraser", "transfer")


@full_precision
def ft(student_factor: Tensor, teacher_factor: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Factor transfer: mean over elements of |f_s/‖f_s‖ − f_t/‖f_t‖|, each factor flattened per row.

    Source: Kim et al. 2018 (arXiv 1802.04977) with p = 1.

    Args:
        student_factor: [B, K], [B, T, K] or [B, K, H, W].
        teacher_factor: The same shape.
    """
    kept = None if mask is None else mask.bool().unsqueeze(-1)
    factors = [value if kept is None else value.masked_fill(~kept, 0.0) for value in (student_factor, teacher_factor)]
    student, teacher = (F.normalize(factor.flatten(1), dim=-1) for factor in factors)
    return over_rows((student - teacher).abs().view_as(student_factor), kept, reduction)


@full_precision
def pad(student_feature: Tensor, teacher_feature: Tensor, log_variance: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Prime-aware distillation: mean over D of (s − t)²/σ² + log σ², σ² predicted from the student; it may be negative.

    Source: Zhang et al. 2020 (arXiv 2008.01458).

    Args:
        student_feature: [B, D] in the teacher's width.
        teacher_feature: [B, D].
        log_variance: log σ² [B, D] (or [B, 1]).
    """
    values = (student_feature - teacher_feature).square() * torch.exp(-log_variance) + log_variance
    return over_rows(values.mean(-1), None, reduction)


@full_precision
def srd(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    power: float = 4.0,
    epsilon: float = 1e-8,
    reduction: Reduction = "mean",
) -> Tensor:
    """Projector and soft maximum: log(ε + Σ |s − t|^α) over the whole batch of normalised features; it may be negative.

    Source: Miles and Mikolajczyk 2024, "Understanding the role of the projector" (arXiv 2303.11098); ε keeps the
    value finite where the student equals the teacher.

    Args:
        student_feature: [B, D], projected and batch-normalised.
        teacher_feature: [B, D], batch-normalised.
        power: α.
        epsilon: ε.
        reduction: The value belongs to the batch; "sum" is B times it.
    """
    value = torch.log((student_feature - teacher_feature).abs().pow(power).sum() + epsilon)
    return of_batch(value, student_feature.shape[0], reduction)


@full_precision
def simkd(
    student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared difference to the teacher's last feature, so that its classifier can be used again.

    Source: Chen et al. 2022 (arXiv 2203.14001). Shapes as in `hidden_mse`; the projector is in the module.
    """
    return hidden_mse(student_feature, teacher_feature, mask=mask, reduction=reduction)


class FactorBridge(nn.Module):
    """The paraphraser (an autoencoder of the teacher's feature) and the translator of the student's."""

    def __init__(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], rate: float) -> None:
        super().__init__()
        teacher_width = width_of(teacher_shape)
        factors = max(1, round(teacher_width * rate))
        is_map = len(teacher_shape) == 4
        self.encoder = _stack([teacher_width, teacher_width, factors, factors], is_map)
        self.decoder = _stack([factors, factors, teacher_width, teacher_width], is_map)
        self.translator = _stack([width_of(student_shape), width_of(student_shape), factors, factors], is_map)


def _stack(widths: list[int], is_map: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1) if is_map else nn.Linear(fan_in, fan_out))
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers[:-1])


class FT(PairedLoss):
    """Factor transfer; see `functional.ft`. Source: Kim et al. 2018 (arXiv 1802.04977).

    The paraphraser learns to reconstruct the teacher's feature, the translator to give its factors. The paper trains the
    paraphraser first; `stage` "paraphraser" and then "transfer" do that, "joint" (default) does both at once, without
    a gradient from the transfer into the paraphraser.

    Args:
        rate: Factors per channel of the teacher, the paper's k.
        stage: "joint", "paraphraser" or "transfer".
        reconstruction: Weight of the paraphraser's reconstruction relative to the transfer. The weight of the whole term
            multiplies both, so a term of weight 500 takes 0.002 where the paraphraser should train with weight 1.
    """

    def __init__(
        self,
        *,
        layers: Sequence[LayerPair] = LAST_LAYER,
        rate: float = 0.5,
        stage: str = "joint",
        reconstruction: float = 1.0,
    ) -> None:
        super().__init__(layers=layers)
        self.rate = positive("rate", rate)
        self.stage = one_of("stage", stage, STAGES)
        self.reconstruction = positive("reconstruction", reconstruction)

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return FactorBridge(student_shape, teacher_shape, self.rate)

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        bridge = self.bridges[index]
        assert isinstance(bridge, FactorBridge)
        mask = mask_for(teacher_value, token_mask)
        dtype = next(bridge.parameters()).dtype
        student_value, teacher_value = match_maps(student_value.to(dtype), teacher_value.to(dtype))
        factor = bridge.encoder(teacher_value)
        total = factor.sum() * 0.0
        if self.stage != "transfer":
            error = hidden_mse(bridge.decoder(factor), teacher_value, mask=mask, reduction="sum")
            total = total + self.reconstruction * error
        if self.stage != "paraphraser":
            total = total + ft(bridge.translator(student_value), factor.detach(), mask=mask, reduction="sum")
        return total


class PrimeBridge(nn.Module):
    """The student's feature in the teacher's width, and its log-variance."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        same = student_width == teacher_width
        self.align: nn.Module = nn.Identity() if same else Bridge(student_width, teacher_width, is_map=False)
        self.log_variance = nn.Sequential(nn.Linear(teacher_width, teacher_width), VectorNorm(teacher_width))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] twice: feature and log-variance."""
        aligned = self.align(values.to(self.log_variance[0].weight.dtype))  # type: ignore[arg-type]
        return aligned, self.log_variance(aligned)


class PAD(PairedLoss):
    """Prime-aware distillation of the embedding; see `functional.pad`. Source: Zhang et al. 2020 (arXiv 2008.01458)."""

    may_be_negative: ClassVar[bool] = True
    of_vectors: ClassVar[bool] = True

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT) -> None:
        super().__init__(layers=layers)

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return PrimeBridge(student_shape[-1], teacher_shape[-1])

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        feature, log_variance = self.bridges[index](student_value)
        return pad(feature, teacher_value, log_variance, reduction="sum")


class ProjectorBridge(nn.Module):
    """A linear projector and the batch norms (without learned scale) of both sides."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.projector = nn.Linear(student_width, teacher_width)
        self.student_norm = VectorNorm(teacher_width, affine=False)
        self.teacher_norm = VectorNorm(teacher_width, affine=False)

    def forward(self, student_value: Tensor, teacher_value: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides [B, D], normalised over the batch."""
        dtype = self.projector.weight.dtype
        return self.student_norm(self.projector(student_value.to(dtype))), self.teacher_norm(teacher_value.to(dtype))


class SRD(PairedLoss):
    """Projector and soft maximum on the embedding; see `functional.srd`. Source: Miles and Mikolajczyk (arXiv 2303.11098)."""

    may_be_negative: ClassVar[bool] = True
    of_vectors: ClassVar[bool] = True

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT, power: float = 4.0) -> None:
        super().__init__(layers=layers)
        self.power = positive("power", power)

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return ProjectorBridge(student_shape[-1], teacher_shape[-1])

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        return srd(*self.bridges[index](student_value, teacher_value), power=self.power, reduction="sum")


class ReuseProjector(nn.Module):
    """1 × 1, 3 × 3, 1 × 1 convolutions with batch norm and ReLU through a narrower middle; two linear layers for vectors.

    The last ReLU of maps cuts at the teacher's lowest value so far, at most 0: at 0 for a net whose stages end in a ReLU.
    """

    lowest: Tensor

    def __init__(self, student_width: int, teacher_width: int, *, is_map: bool, factor: int) -> None:
        super().__init__()
        middle = max(1, teacher_width // factor)
        if is_map:
            self.layers = nn.Sequential(
                *_normed(nn.Conv2d(student_width, middle, 1, bias=False), middle),
                *_normed(nn.Conv2d(middle, middle, 3, padding=1, bias=False), middle),
                *_normed(nn.Conv2d(middle, teacher_width, 1, bias=False), teacher_width)[:-1],
            )
            self.register_buffer("lowest", torch.zeros(()))
        else:
            self.layers = nn.Sequential(nn.Linear(student_width, middle), nn.ReLU(), nn.Linear(middle, teacher_width))

    def forward(self, values: Tensor) -> Tensor:
        """The student's feature as the teacher's classifier would read it."""
        projected: Tensor = self.layers(values.to(next(self.layers.parameters()).dtype))
        return projected if projected.dim() != 4 else torch.maximum(projected, self.lowest.to(projected.dtype))

    @torch.no_grad()
    def measure(self, teacher_value: Tensor) -> None:
        """Let a batch of training lower what values are cut at."""
        if self.training and teacher_value.dim() == 4:
            self.lowest.copy_(torch.minimum(self.lowest, teacher_value.amin().to(self.lowest.dtype)))


def _normed(convolution: nn.Conv2d, width: int) -> tuple[nn.Module, ...]:
    return convolution, MapNorm(width), nn.ReLU()


class SimKD(PairedLoss):
    """Feature for the reused classifier; see `functional.simkd`. Source: Chen et al. 2022 (arXiv 2203.14001).

    After training, the student predicts with the teacher's classifier on `bridges[0]` of its last feature.

    Args:
        layers: Pairs of taps: the last map of both, or the input of both heads (default).
        factor: How many times narrower the middle of the projector is than the teacher's feature.
    """

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT, factor: int = 2) -> None:
        super().__init__(layers=layers)
        self.factor = int(between("factor", factor, 1, 64))

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        is_map = len(student_shape) == 4
        return ReuseProjector(width_of(student_shape), width_of(teacher_shape), is_map=is_map, factor=self.factor)

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        student_value, teacher_value = match_maps(student_value, teacher_value)
        projector = self.bridges[index]
        assert isinstance(projector, ReuseProjector)
        projector.measure(teacher_value)
        feature = projector(student_value)
        return simkd(feature, teacher_value, mask=mask_for(teacher_value, token_mask), reduction="sum")
