"""Relation of singular vectors: how the main direction of one layer's channels relates to that of the next.

Shapes: B batch, T tokens, C channels, H height, W width of a map, P positions (T or H·W), k singular vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from potstill.losses.flow import LAST_TWO, FlowLoss
from potstill.losses.options import LayerPair, between
from potstill.losses.precision import full_precision
from potstill.losses.reduction import Reduction, over_rows
from potstill.losses.relation import positions

TERMS = 10


@full_precision
def kd_svd(
    student_first: Tensor,
    student_second: Tensor,
    teacher_first: Tensor,
    teacher_second: Tensor,
    *,
    num_vectors: int = 1,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Relation of singular vectors: mean squared difference of exp(−‖v₁ᵢ − v₂ⱼ‖² / 8) between the channels of two layers.

    v is the row of a channel in the k right singular vectors of the [P, C] feature, scaled by their share of the singular
    values. Each teacher vector takes the sign with the positive sum, the student's that of the teacher's. The gradient goes
    through the kept vectors alone.
    Source: Lee et al. 2018 (arXiv 1807.06819).

    Args:
        student_first: [B, C₁, H, W] or [B, T, C₁], in the teacher's width.
        student_second: [B, C₂, H', W'] or [B, T, C₂].
        teacher_first: As the student's.
        teacher_second: As the student's.
        num_vectors: k.
        mask: [B, T], true on real tokens.
        reduction: Over rows.
    """
    teacher = [singular_features(value, num_vectors, mask) for value in (teacher_first, teacher_second)]
    student = [singular_features(value, num_vectors, mask) for value in (student_first, student_second)]
    aligned = [own * _sign((own.detach() * other).sum(1, keepdim=True)) for own, other in zip(student, teacher)]
    is_one_number = teacher[0].shape[-1] == teacher[1].shape[-1] == 1 and teacher[0].device.type != "mps"
    distance = _radial_distance if is_one_number else _radial_distance_by_pairs
    return over_rows(distance(*aligned, *teacher), None if mask is None else mask.bool().any(1), reduction)


def _sign(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).to(values.dtype)


def _radial_distance_by_pairs(first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
    """[B], mean over channels i, j of (r(first_i, second_j) − r(third_i, fourth_j))², r(x, y) = exp(−‖x − y‖² / 8)."""
    return (_radial(first, second) - _radial(third, fourth)).square().mean((1, 2))


def _radial(first: Tensor, second: Tensor) -> Tensor:
    squared = first.square().sum(-1).unsqueeze(2) + second.square().sum(-1).unsqueeze(1) - 2 * first @ second.transpose(1, 2)
    return torch.exp(-squared.clamp(min=0) / 8)


def _radial_distance(first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
    """`_radial_distance_by_pairs` for one number per channel, in [−1, 1], without the C₁ × C₂ exponentials.

    exp(−(x − y)²/8) = Σ_n φ_n(x) φ_n(y) with φ_n(x) = exp(−x²/8) (x/2)^n / √n!; with |x|, |y| ≤ 1 what follows the tenth
    term is below 1e-12. ‖L Rᵀ‖² = Σ (LᵀL ∘ RᵀR) then needs products of 2 · `TERMS` columns; 64 bits, because near the end of
    training they almost cancel.
    """
    left = torch.cat([_expanded(first), _expanded(third)], -1)
    right = torch.cat([_expanded(second), -_expanded(fourth)], -1)
    products = (left.transpose(1, 2) @ left) * (right.transpose(1, 2) @ right)
    values = products.sum((1, 2)).clamp(min=0) / (first.shape[1] * second.shape[1])
    return values.to(first.dtype)


def _expanded(numbers: Tensor) -> Tensor:
    """φ_0 … φ_9 of numbers [B, C, 1]: [B, C, `TERMS`] in 64 bits."""
    numbers = numbers.double()
    terms = [torch.exp(-numbers.square() / 8)]
    for power in range(1, TERMS):
        terms.append(terms[-1] * (numbers / (2 * math.sqrt(power))))
    return torch.cat(terms, -1)


def singular_features(values: Tensor, num_vectors: int, mask: Tensor | None = None) -> Tensor:
    """[B, C, k]: right singular vectors of the [P, C] feature, scaled by the singular values' shares."""
    flat = positions(values)
    flat = flat if mask is None else flat.masked_fill(~mask.bool().unsqueeze(-1), 0.0)
    scales, vectors = TopSingular.apply(flat, min(num_vectors, *flat.shape[1:]))  # type: ignore[no-untyped-call]
    # A singular vector has no sign of its own; the side on which its sum is positive is taken.
    vectors = vectors * _sign(vectors.detach().sum(1, keepdim=True))
    return F.normalize(scales, dim=-1).unsqueeze(1) * vectors


class TopSingular(torch.autograd.Function):
    """The k largest singular values [B, k] and right singular vectors [B, C, k] of M [B, P, C].

    Both come from the eigenvectors of the smaller of M Mᵀ and MᵀM. The gradient is exact where the singular values differ;
    gaps below a bound are held at it, so that equal values (dead channels, few positions) give a finite gradient.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, num_vectors: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Values and vectors."""
        is_wide = matrix.shape[1] <= matrix.shape[2]
        gram = matrix @ matrix.transpose(1, 2) if is_wide else matrix.transpose(1, 2) @ matrix
        squared, basis = torch.linalg.eigh(gram)
        squared, basis = squared.flip(-1).clamp(min=0), basis.flip(-1)
        top = basis[:, :, :num_vectors]
        vectors = F.normalize(matrix.transpose(1, 2) @ top, dim=1) if is_wide else top
        ctx.save_for_backward(matrix, squared, basis, vectors)
        return squared[:, :num_vectors].sqrt(), vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor, grad_vectors: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """dM = M v xᵀ + M x vᵀ for x = (λI − MᵀM)⁺ dv, and u vᵀ dσ."""
        matrix, squared, basis, vectors = ctx.saved_tensors
        moved, projected = _moved(matrix, squared, basis, vectors, grad_vectors), matrix @ vectors
        through_vectors = (matrix @ moved) @ vectors.transpose(1, 2) + projected @ moved.transpose(1, 2)
        left = projected / squared[:, None, : vectors.shape[2]].sqrt().clamp(min=1e-6)
        return through_vectors + (left * grad_values.unsqueeze(1)) @ vectors.transpose(1, 2), None


def _moved(matrix: Tensor, squared: Tensor, basis: Tensor, vectors: Tensor, grad: Tensor) -> Tensor:
    """(λ_k I − MᵀM)⁺ g_k [B, C, k] for the eigenvalue λ_k of each kept vector.

    With the eigenvectors U of M Mᵀ: [g + Mᵀ U diag(1/(λ_k − λ_j)) Uᵀ M g] / λ_k, g without its share of v_k.
    """
    k = vectors.shape[2]
    bound = 1e-4 * squared[:, None, :1].clamp(min=1e-12)
    gap = squared[:, None, :k] - squared[:, :, None]
    gap = torch.where(gap.abs() < bound, torch.where(gap < 0, -bound, bound), gap)
    own = torch.eye(squared.shape[1], k, device=squared.device, dtype=torch.bool)
    grad = grad - vectors * (vectors * grad).sum(1, keepdim=True)
    if matrix.shape[1] > matrix.shape[2]:
        return basis @ ((basis.transpose(1, 2) @ grad) / gap).masked_fill(own, 0.0)
    inside = ((basis.transpose(1, 2) @ (matrix @ grad)) / gap).masked_fill(own, 0.0)
    return (grad + matrix.transpose(1, 2) @ (basis @ inside)) / torch.maximum(squared[:, None, :k], bound)


class KDSVD(FlowLoss):
    """Relation of singular vectors; see `functional.kd_svd`. Source: Lee et al. 2018 (arXiv 1807.06819).

    Args:
        layers: At least two pairs of (student, teacher) blocks.
        project: "auto" bridges where the widths differ, "linear" always, "none" never.
        num_vectors: Singular vectors kept.
    """

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_TWO, project: str = "auto", num_vectors: int = 1) -> None:
        super().__init__(layers=layers, project=project)
        self.num_vectors = int(between("num_vectors", num_vectors, 1, 1024))

    def flow(
        self,
        student_first: Tensor,
        student_second: Tensor,
        teacher_first: Tensor,
        teacher_second: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        return kd_svd(
            student_first,
            student_second,
            teacher_first,
            teacher_second,
            num_vectors=self.num_vectors,
            mask=mask,
            reduction="sum",
        )
