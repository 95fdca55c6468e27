"""Relation losses between the rows of a batch: distances, angles, similarities. Widths need no bridge.

Shapes: B batch, D width. A feature of any shape [B, …] is flattened per row; token features are averaged over real tokens.
The value belongs to the batch: "mean" is the value, "sum" B times it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from potstill.losses.layers import PairedLoss, mask_for
from potstill.losses.options import LAST_LAYER, LayerPair, between, positive
from potstill.losses.precision import full_precision
from potstill.losses.reduction import Reduction, of_batch, token_mean
from potstill.losses.transfer import HEAD_INPUT


@full_precision
def rkd_distance(student_feature: Tensor, teacher_feature: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Huber loss, mean over B², between pairwise distances, each side divided by its mean positive distance.

    Source: Park et al. 2019 (arXiv 1904.05068); the mean runs over all B² entries as in the authors' code.

    Args:
        student_feature: [B, ...].
        teacher_feature: [B, ...]; the width may differ.
        reduction: See the module.
    """
    student, teacher = (_scaled_distances(flat_rows(value)) for value in (student_feature, teacher_feature))
    return of_batch(F.smooth_l1_loss(student, teacher), student_feature.shape[0], reduction)


@full_precision
def rkd_angle(student_feature: Tensor, teacher_feature: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Huber loss, mean over B³, between cosines of the angle at j for all (i, j, k), from the Gram matrix alone.

    ⟨x_i − x_j, x_k − x_j⟩ = G_ik − G_ij − G_jk + G_jj, so no B × B × D differences are held.
    Source: Park et al. 2019 (arXiv 1904.05068). Arguments as in `rkd_distance`.
    """
    student, teacher = (_angles(flat_rows(value)) for value in (student_feature, teacher_feature))
    return of_batch(F.smooth_l1_loss(student, teacher), student_feature.shape[0], reduction)


@full_precision
def sp(student_feature: Tensor, teacher_feature: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Similarity preserving: 1/B² ‖G_s − G_t‖², G = QQᵀ with rows of Euclidean length one.

    Source: Tung and Mori 2019 (arXiv 1907.09682). Arguments as in `rkd_distance`.
    """
    matrices = [F.normalize(rows @ rows.T, p=2.0, dim=1) for rows in map(flat_rows, (student_feature, teacher_feature))]
    return of_batch((matrices[0] - matrices[1]).square().mean(), student_feature.shape[0], reduction)


@full_precision
def cc(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    gamma: float = 0.4,
    order: int = 2,
    reduction: Reduction = "mean",
) -> Tensor:
    """Correlation congruence: 1/B² ‖K_s − K_t‖², K the Gaussian kernel on rows of length one, by its series.

    exp(−γ‖x − y‖²) ≈ e^{−2γ} Σ_{p=0}^{P} (2γ)^p / p! · ⟨x, y⟩^p. The teacher's feature gets no gradient; the student's is
    computed along with the value, from the same matrices.
    Source: Peng et al. 2019 (arXiv 1904.01802).

    Args:
        student_feature: [B, ...].
        teacher_feature: [B, ...]; the width may differ.
        gamma: γ.
        order: P.
        reduction: See the module.
    """
    student, teacher = (F.normalize(flat_rows(value), dim=1) for value in (student_feature, teacher_feature.detach()))
    value = _Congruence.apply(student, teacher, gaussian_coefficients(gamma, order))  # type: ignore[no-untyped-call]
    return of_batch(value, student_feature.shape[0], reduction)


def gaussian_coefficients(gamma: float, order: int) -> tuple[float, ...]:
    """Coefficients of 1, g, g² … in the series of exp(−γ‖x − y‖²) for unit vectors with inner product g."""
    return tuple(math.exp(-2 * gamma) * (2 * gamma) ** power / math.factorial(power) for power in range(order + 1))


class _Congruence(torch.autograd.Function):
    """1/B² ‖k(S Sᵀ) − k(T Tᵀ)‖² of a polynomial k by entries; d/dS = 4/B² [(k(S Sᵀ) − k(T Tᵀ)) ∘ k′(S Sᵀ)] S."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, coefficients: Sequence[float]) -> Tensor:  # type: ignore[override]
        gram = student @ student.T
        # the constant term is the same on both sides
        difference = _series(gram, coefficients[1:]).mul_(gram)
        other = teacher @ teacher.T
        difference -= _series(other, coefficients[1:]).mul_(other)
        size = len(student) ** 2
        value = torch.dot(difference.flatten(), difference.flatten()) / size
        slopes = [power * coefficient for power, coefficient in enumerate(coefficients)][1:]
        ctx.save_for_backward(torch.mm(_series(gram, slopes).mul_(difference), student).mul_(4 / size))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None


@full_precision
def pkt(student_feature: Tensor, teacher_feature: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Probabilistic transfer: mean over B² of p log(p / q), p and q the row-normalised similarities (cos + 1) / 2.

    Source: Passalis and Tefas 2018 (arXiv 1803.10837); the mean over entries as in the authors' code.
    Arguments as in `rkd_distance`.
    """
    p, q = (_similarity_probabilities(flat_rows(value)) for value in (teacher_feature, student_feature))
    tiny = 1e-7
    return of_batch((p * ((p + tiny).log() - (q + tiny).log())).mean(), student_feature.shape[0], reduction)


def flat_rows(values: Tensor) -> Tensor:
    """[B, ...] as [B, D]."""
    return values.flatten(1)


def _squared_distances(rows: Tensor) -> Tensor:
    # Distances do not depend on the origin; centring keeps the subtraction of squares precise.
    rows = rows - rows.mean(0, keepdim=True).detach()
    gram = rows @ rows.T
    squares = gram.diagonal()
    squared = squares.unsqueeze(1) + squares.unsqueeze(0) - 2 * gram
    return squared.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), 0.0)


def _root(squared: Tensor) -> Tensor:
    safe = squared > 1e-12
    return torch.where(safe, squared, torch.ones_like(squared)).sqrt() * safe


def _scaled_distances(rows: Tensor) -> Tensor:
    distances = _root(_squared_distances(rows))
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.clamp(min=1e-12)


def _angles(rows: Tensor) -> Tensor:
    rows = rows - rows.mean(0, keepdim=True).detach()
    gram = rows @ rows.T
    squares = gram.diagonal()
    diagonal = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    distances = _root((squares.unsqueeze(1) + squares.unsqueeze(0) - 2 * gram).masked_fill(diagonal, 0.0))
    inverse = torch.where(distances > 0, distances, torch.ones_like(distances)).reciprocal() * (distances > 0)
    # [j, i, k]: the angle at j between i and k
    shifted = gram - 0.5 * squares.unsqueeze(1)
    inner = gram.unsqueeze(0) - shifted.unsqueeze(2) - shifted.unsqueeze(1)
    return inner * inverse.unsqueeze(2) * inverse.unsqueeze(1)


def _series(values: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Σ_p coefficients[p] · values^p by Horner's scheme, in a tensor of its own."""
    if len(coefficients) == 1:
        return torch.full_like(values, coefficients[0])
    series = values * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        series = series.add_(coefficient).mul_(values)
    return series.add_(coefficients[0])


def _similarity_probabilities(rows: Tensor) -> Tensor:
    unit = F.normalize(rows, dim=1)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True).clamp(min=1e-12)


class BatchRelationLoss(PairedLoss):
    """Base of relation losses between rows: any shapes on both sides."""

    kind: ClassVar[str] = "relation"

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT) -> None:
        super().__init__(layers=layers)

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        """Every shape is accepted: rows are compared with rows."""

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return nn.Identity()

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        return self.relate(_rows(student_value, token_mask), _rows(teacher_value, token_mask))

    def relate(self, student_rows: Tensor, teacher_rows: Tensor) -> Tensor:
        """B times the value, from [B, D] and [B, D']."""
        raise TypeError(f"{type(self).__name__} does not define relate")


def _rows(values: Tensor, token_mask: Tensor | None) -> Tensor:
    return token_mean(values, mask_for(values, token_mask)) if values.dim() == 3 else values.flatten(1)


class RKDDistance(BatchRelationLoss):
    """Distances between rows; see `functional.rkd_distance`. Source: Park et al. 2019 (arXiv 1904.05068)."""

    def relate(self, student_rows: Tensor, teacher_rows: Tensor) -> Tensor:
        return rkd_distance(student_rows, teacher_rows, reduction="sum")


class RKDAngle(BatchRelationLoss):
    """Angles between rows; see `functional.rkd_angle`. Source: Park et al. 2019 (arXiv 1904.05068)."""

    def relate(self, student_rows: Tensor, teacher_rows: Tensor) -> Tensor:
        return rkd_angle(student_rows, teacher_rows, reduction="sum")


class SP(BatchRelationLoss):
    """Similarity preserving; see `functional.sp`. Source: Tung and Mori 2019 (arXiv 1907.09682)."""

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER) -> None:
        super().__init__(layers=layers)

    def relate(self, student_rows: Tensor, teacher_rows: Tensor) -> Tensor:
        return sp(student_rows, teacher_rows, reduction="sum")


class CC(BatchRelationLoss):
    """Correlation congruence; see `functional.cc`. Source: Peng et al. 2019 (arXiv 1904.01802)."""

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT, gamma: float = 0.4, order: int = 2) -> None:
        super().__init__(layers=layers)
        self.gamma = positive("gamma", gamma)
        self.order = int(between("order", order, 1, 10))

    def relate(self, student_rows: Tensor, teacher_rows: Tensor) -> Tensor:
        return cc(student_rows, teacher_rows, gamma=self.gamma, order=self.order, reduction="sum")


class PKT(BatchRelationLoss):
    """Probabilistic transfer; see `functional.pkt`. Source: Passalis and Tefas 2018 (arXiv 1803.10837)."""

    def relate(self, student_rows: Tensor, teacher_rows: Tensor) -> Tensor:
        return pkt(student_rows, teacher_rows, reduction="sum")
