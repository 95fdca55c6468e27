"""Relation losses between the rows of a batch: distances, angles, similarities. Widths need no bridge.

Shapes: B batch, D width. A feature of any shape [B, …] is flattened per row; token features are averaged over real tokens.
The value belongs to the batch: "mean" is the value, "sum" B times it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from potstill.ground.precision import full_precision
from potstill.losses.layers import PairedLoss, vectors
from potstill.losses.options import HEAD_INPUT, LAST_LAYER, LayerPair, between, positive
from potstill.losses.reduction import Reduction, of_batch, root
from potstill.losses.row_products import TINY, Angles, Congruence, products, squared_distances


@full_precision
def rkd_distance(student_feature: Tensor, teacher_feature: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Huber loss, mean over B², between pairwise distances, each side divided by its mean positive distance.

    Source: Park et al. 2019 (arXiv 1904.05068); the mean runs over all B² entries as in the authors' code.

    Args:
        student_feature: [B, ...].
        teacher_feature: [B, ...]; the width may differ.
    """
    student, teacher = (_scaled_distances(value.flatten(1)) for value in (student_feature, teacher_feature))
    return of_batch(F.smooth_l1_loss(student, teacher), student_feature.shape[0], reduction)


@full_precision
def rkd_angle(student_feature: Tensor, teacher_feature: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Huber loss, mean over B³, between cosines of the angle at j for all (i, j, k), from the squared distances alone.

    By the law of cosines ⟨x_i − x_j, x_k − x_j⟩ = (d²_ij + d²_jk − d²_ik) / 2, so no B × B × D differences are held; nor are
    all B³ cosines: value and gradient are summed over some j at a time.
    Source: Park et al. 2019 (arXiv 1904.05068). Arguments as in `rkd_distance`.
    """
    squared = [squared_distances(value.flatten(1)) for value in (student_feature, teacher_feature)]
    value: Tensor = Angles.apply(*squared)  # type: ignore[no-untyped-call]
    return of_batch(value, student_feature.shape[0], reduction)


@full_precision
def sp(student_feature: Tensor, teacher_feature: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Similarity preserving: 1/B² ‖G_s − G_t‖², G = QQᵀ with rows of Euclidean length one.

    Source: Tung and Mori 2019 (arXiv 1907.09682). Arguments as in `rkd_distance`.
    """
    matrices = [F.normalize(products(rows), p=2.0, dim=1) for rows in (student_feature.flatten(1), teacher_feature.flatten(1))]
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

    exp(−γ‖x − y‖²) ≈ e^{−2γ} Σ_{p=0}^{P} (2γ)^p / p! · ⟨x, y⟩^p. Gradients are computed along with the value, from the
    same matrices.
    Source: Peng et al. 2019 (arXiv 1904.01802).

    Args:
        student_feature: [B, ...].
        teacher_feature: [B, ...]; the width may differ.
        gamma: γ.
        order: P.
    """
    rows = student_feature.flatten(1), teacher_feature.flatten(1)
    value = Congruence.apply(*rows, gaussian_coefficients(gamma, order))  # type: ignore[no-untyped-call]
    return of_batch(value, student_feature.shape[0], reduction)


def gaussian_coefficients(gamma: float, order: int) -> tuple[float, ...]:
    """Coefficients of 1, g, g² … in the series of exp(−γ‖x − y‖²) for unit vectors with inner product g."""
    return tuple(math.exp(-2 * gamma) * (2 * gamma) ** power / math.factorial(power) for power in range(order + 1))


@full_precision
def pkt(student_feature: Tensor, teacher_feature: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Probabilistic transfer: mean over B² of p log(p / q), p and q the row-normalised similarities (cos + 1) / 2.

    Source: Passalis and Tefas 2018 (arXiv 1803.10837); the mean over entries as in the authors' code.
    Arguments as in `rkd_distance`.
    """
    p, q = (_similarity_probabilities(value.flatten(1)) for value in (teacher_feature, student_feature))
    tiny = 1e-7
    return of_batch((p * ((p + tiny).log() - (q + tiny).log())).mean(), student_feature.shape[0], reduction)


def _scaled_distances(rows: Tensor) -> Tensor:
    distances = root(squared_distances(rows), TINY)
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.clamp(min=1e-12)


def _similarity_probabilities(rows: Tensor) -> Tensor:
    unit = F.normalize(rows, dim=1)
    similarity = (products(unit) + 1) / 2
    return similarity / similarity.sum(1, keepdim=True).clamp(min=1e-12)


class BatchRelationLoss(PairedLoss):
    """Base of relation losses between rows: any shapes on both sides."""

    kind: ClassVar[str] = "relation"
    nearest: ClassVar[str] = "kl"

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT) -> None:
        super().__init__(layers=layers)

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        """Every shape is accepted: rows are compared with rows."""

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        both = student_value, teacher_value
        rows = [vectors(value, token_mask) if value.dim() == 3 else value.flatten(1) for value in both]
        return self.formula(*rows, **self.arguments(), reduction="sum")


class RKDDistance(BatchRelationLoss):
    """Distances between rows; see `functional.rkd_distance`. Source: Park et al. 2019 (arXiv 1904.05068)."""

    formula = staticmethod(rkd_distance)


class RKDAngle(BatchRelationLoss):
    """Angles between rows; see `functional.rkd_angle`. Source: Park et al. 2019 (arXiv 1904.05068)."""

    formula = staticmethod(rkd_angle)


class SP(BatchRelationLoss):
    """Similarity preserving; see `functional.sp`. Source: Tung and Mori 2019 (arXiv 1907.09682)."""

    formula = staticmethod(sp)

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER) -> None:
        super().__init__(layers=layers)


class CC(BatchRelationLoss):
    """Correlation congruence; see `functional.cc`. Source: Peng et al. 2019 (arXiv 1904.01802)."""

    formula = staticmethod(cc)

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT, gamma: float = 0.4, order: int = 2) -> None:
        super().__init__(layers=layers)
        self.gamma = positive("gamma", gamma)
        self.order = int(between("order", order, 1, 10))


class PKT(BatchRelationLoss):
    """Probabilistic transfer; see `functional.pkt`. Source: Passalis and Tefas 2018 (arXiv 1803.10837)."""

    formula = staticmethod(pkt)
