"""Relation losses: how positions or channels relate to each other inside a row; widths need no bridge.

Shapes: B batch, T tokens, D width, C channels, H height, W width of a map, P positions (T or H·W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import NeedsError
from potstill.ground.precision import full_precision
from potstill.losses.layers import BridgedLoss, PairedLoss, loss_name, width_of
from potstill.losses.options import LAST_LAYER, LayerPair, one_of
from potstill.losses.reduction import Reduction, over_rows, root


@full_precision
def gram(student_hidden: Tensor, teacher_hidden: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Mean squared difference of cosine matrices over positions: 1/P² ‖ŜŜᵀ − T̂T̂ᵀ‖², rows of Ŝ and T̂ of length one.

    Source: the relation term of LLaVA-KD (arXiv 2410.16236), with squared differences for its cosine of matrices.

    Args:
        student_hidden: [B, T, D] or [B, C, H, W].
        teacher_hidden: The same tokens or grid; the width may differ.
        mask: [B, T], true on real tokens; pairs with a pad do not count.
    """
    student, teacher = (F.normalize(positions(value), dim=-1) for value in (student_hidden, teacher_hidden))
    difference = student @ student.transpose(1, 2) - teacher @ teacher.transpose(1, 2)
    pairs = None if mask is None else mask.bool()[:, :, None] & mask.bool()[:, None, :]
    return over_rows(difference.square(), pairs, reduction)


def positions(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B, C, H, W] as [B, H·W, C]; [B, T, D] as it is, zero where the mask [B, T] is false."""
    flat = values.flatten(2).transpose(1, 2) if values.dim() == 4 else values
    return flat if mask is None else flat.masked_fill(~mask.bool().unsqueeze(-1), 0.0)


class RelationLoss(PairedLoss):
    """Base of relation losses inside a row: any widths, the same tokens, or grids pooled to the smaller."""

    kind: ClassVar[str] = "relation"
    ranks: ClassVar[tuple[int, ...]] = (3, 4)


class Gram(RelationLoss):
    """Cosine matrices over positions; see `functional.gram`. Source: LLaVA-KD (arXiv 2410.16236)."""

    formula = staticmethod(gram)


@full_precision
def affinity(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    over: Literal["positions", "channels"] = "positions",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Difference of pairwise affinities, without building the P × P matrices.

    positions: ‖ŜŜᵀ − T̂T̂ᵀ‖_F / P over cosine affinities of positions; the squared norm is ‖ŜᵀŜ‖² + ‖T̂ᵀT̂‖² − 2‖ŜᵀT̂‖².
    channels: mean over channels c of ‖s_c s_cᵀ − t_c t_cᵀ‖_F / P = sqrt(2 − 2⟨s_c, t_c⟩²) / P, every s_c, t_c of length one;
    this is what public code computes, and it needs equal channels.
    Source: He et al. 2019, "Knowledge adaptation for efficient semantic segmentation" (arXiv 1903.04688).

    Args:
        student_map: [B, C, H, W] or [B, T, D].
        teacher_map: The same positions; for "positions" any width.
        over: Which vectors are compared.
    """
    student, teacher = (positions(value, mask) for value in (student_map, teacher_map))
    count: Tensor | float = float(student.shape[1]) if mask is None else mask.bool().sum(1).clamp(min=1).to(student.dtype)
    tiny = 1e-6 if student.dtype == torch.float32 else 1e-14  # below it a squared norm may be rounding
    if over == "channels":
        product = (F.normalize(student, dim=1) * F.normalize(teacher, dim=1)).sum(1)
        values = root(2 - 2 * product.square(), tiny).mean(1) / count
    else:
        student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
        values = root(distance_of_grams(student, teacher), tiny) / count
    return over_rows(values, None if mask is None else mask.bool().any(1), reduction)


def distance_of_grams(first: Tensor, second: Tensor) -> Tensor:
    """‖AAᵀ − BBᵀ‖² [B] for A [B, P, C] and B [B, P, C'], by the smaller of P × P and C × C' products."""
    if first.shape[1] <= min(first.shape[2], second.shape[2]):
        difference = first @ first.transpose(1, 2) - second @ second.transpose(1, 2)
        return difference.square().sum((1, 2))
    own, other = cross_square(first, first), cross_square(second, second)
    return (own + other - 2 * cross_square(first, second)).clamp(min=0)


def cross_square(first: Tensor, second: Tensor) -> Tensor:
    """‖AᵀB‖² = ⟨AAᵀ, BBᵀ⟩ [B] for A [B, P, C] and B [B, P, C'], by the smaller of both products."""
    if first.shape[1] < min(first.shape[2], second.shape[2]):
        return ((first @ first.transpose(1, 2)) * (second @ second.transpose(1, 2))).sum((1, 2))
    return (first.transpose(1, 2) @ second).square().sum((1, 2))


@full_precision
def nst(student_map: Tensor, teacher_map: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Neuron selectivity: squared MMD between channels, k(x, y) = ⟨x, y⟩² on activations of length one over positions.

    mean k(t, t') + mean k(s, s') − 2 mean k(s, t), the means over pairs of channels; this is ‖S Sᵀ/C_s − T Tᵀ/C_t‖².
    Source: Huang and Wang 2017 (arXiv 1707.01219) with the polynomial kernel d = 2, c = 0.

    Shapes as in `gram`.
    """
    flat = (positions(value, mask) for value in (student_map, teacher_map))
    channels = (F.normalize(value, dim=1) * value.shape[2] ** -0.5 for value in flat)
    return over_rows(distance_of_grams(*channels), None if mask is None else mask.bool().any(1), reduction)


@full_precision
def ickd(student_map: Tensor, teacher_map: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Inter-channel correlation: 1/C ‖G_s − G_t‖², G = F Fᵀ over positions with rows of length one.

    Source: Liu et al. 2021 (arXiv 2202.03680); length and 1/C as in the authors' code, the paper has neither and writes 1/C².

    Args:
        student_map: [B, C, H, W] or [B, T, D], already in the teacher's channels.
        teacher_map: The same channels; the positions may differ.
    """
    channels = [positions(value, mask).transpose(1, 2) for value in (student_map, teacher_map)]
    values = _distance_of_unit_rows(*channels) / channels[0].shape[1]
    return over_rows(values, None if mask is None else mask.bool().any(1), reduction)


def _distance_of_unit_rows(first: Tensor, second: Tensor) -> Tensor:
    """‖Â − B̂‖² [B], Â and B̂ being F Fᵀ of F [B, C, P] with rows of length one, by the smaller of C × C and P × P products."""
    if first.shape[1] <= min(first.shape[2], second.shape[2]):
        units = [F.normalize(value @ value.transpose(1, 2), dim=2) for value in (first, second)]
        return (units[0] - units[1]).square().sum((1, 2))
    scaled, own = [], first.new_zeros(len(first))
    for value in (first, second):
        squared = ((value @ (value.transpose(1, 2) @ value)) * value).sum(2)  # of the length of each row of F Fᵀ
        safe = squared.clamp(min=1e-24)
        scaled.append(value * safe.rsqrt().unsqueeze(2))
        own = own + (squared / safe).sum(1)
    cross = (scaled[0].transpose(1, 2) @ scaled[1]) * (first.transpose(1, 2) @ second)
    return (own - 2 * cross.sum((1, 2))).clamp(min=0)


class Affinity(RelationLoss):
    """Pairwise affinities; see `functional.affinity`. Source: He et al. 2019 (arXiv 1903.04688).

    It compares "positions" (any widths) or "channels" (equal widths).
    """

    formula = staticmethod(affinity)

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER, over: str = "positions") -> None:
        super().__init__(layers=layers)
        self.over = one_of("over", over, ("positions", "channels"))

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        super().check(student_shape, teacher_shape, names)
        if self.over == "channels" and width_of(student_shape) != width_of(teacher_shape):
            raise NeedsError(
                f"{loss_name(self)}: {names} have different widths, and over is channels",
                "equal widths, or affinities between positions",
                "set over: positions",
            )


class NST(RelationLoss):
    """Neuron selectivity; see `functional.nst`. Source: Huang and Wang 2017 (arXiv 1707.01219)."""

    formula = staticmethod(nst)


class ICKD(BridgedLoss):
    """Inter-channel correlation; see `functional.ickd`. Source: Liu et al. 2021 (arXiv 2202.03680)."""

    kind: ClassVar[str] = "relation"
    ranks: ClassVar[tuple[int, ...]] = (3, 4)
    formula = staticmethod(ickd)
