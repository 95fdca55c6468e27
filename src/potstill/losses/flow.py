"""Relation losses between layers: how a network's features flow from one layer to the next.

Shapes: B batch, T tokens, C channels, H height, W width of a map, P positions (T or H·W), k singular vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import NeedsError, RecipeError
from potstill.losses.bridges import match_maps
from potstill.losses.contract import LossValue, StudentView
from potstill.losses.layers import PairedLoss, loss_name, mask_for, teacher_taps
from potstill.losses.options import LayerPair, between, tap_name
from potstill.losses.precision import full_precision
from potstill.losses.reduction import Reduction, over_rows
from potstill.losses.relation import positions
from potstill.teacher.signal import TeacherSignal

LAST_TWO: tuple[LayerPair, ...] = ((-2, -2), (-1, -1))


@full_precision
def fsp(
    student_first: Tensor,
    student_second: Tensor,
    teacher_first: Tensor,
    teacher_second: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Flow of solution procedure: mean squared difference of G = F₁ᵀ F₂ / P between two layers, [C₁, C₂] per row.

    Source: Yim et al. 2017, "A gift from knowledge distillation" (CVPR).

    Args:
        student_first: [B, C₁, H, W] or [B, T, C₁], in the teacher's width.
        student_second: [B, C₂, H', W'] or [B, T, C₂]; the larger grid of both is pooled to the smaller.
        teacher_first: As the student's.
        teacher_second: As the student's.
        mask: [B, T], true on real tokens.
        reduction: Over rows.
    """
    student = [_positions(value, mask) for value in match_maps(student_first, student_second)]
    teacher = [_positions(value, mask) for value in match_maps(teacher_first, teacher_second)]
    counts = [float(side[0].shape[1]) if mask is None else mask.sum(1).clamp(min=1) for side in (student, teacher)]
    widths = student[0].shape[2] * student[1].shape[2]
    values = _flow_distance(*student, *teacher, *counts) / widths
    return over_rows(values, None if mask is None else mask.bool().any(1), reduction)


def _positions(values: Tensor, mask: Tensor | None) -> Tensor:
    flat = positions(values)
    return flat if mask is None else flat.masked_fill(~mask.bool().unsqueeze(-1), 0.0)


def _flow_distance(
    student_first: Tensor,
    student_second: Tensor,
    teacher_first: Tensor,
    teacher_second: Tensor,
    student_count: float | Tensor,
    teacher_count: float | Tensor,
) -> Tensor:
    """‖S₁ᵀS₂/P_s − T₁ᵀT₂/P_t‖² [B], by P × P products where those are smaller: ⟨S₁ᵀS₂, T₁ᵀT₂⟩ = ⟨S₁T₁ᵀ, S₂T₂ᵀ⟩."""
    own_count, other_count = (
        count.view(-1, 1, 1) if isinstance(count, Tensor) else count for count in (student_count, teacher_count)
    )
    width = min(student_first.shape[2], student_second.shape[2])
    if 2 * max(student_first.shape[1], teacher_first.shape[1]) >= width:
        own_flow = student_first.transpose(1, 2) @ student_second / own_count
        difference = own_flow - teacher_first.transpose(1, 2) @ teacher_second / other_count
        return difference.square().sum((1, 2))
    own = _inner(student_first, student_first, student_second, student_second) / student_count**2
    other = _inner(teacher_first, teacher_first, teacher_second, teacher_second) / teacher_count**2
    cross = _inner(student_first, teacher_first, student_second, teacher_second) / (student_count * teacher_count)
    return (own + other - 2 * cross).clamp(min=0)


def _inner(first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
    return ((first @ second.transpose(1, 2)) * (third @ fourth.transpose(1, 2))).sum((1, 2))


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
    difference = _radial(*aligned) - _radial(*teacher)
    return over_rows(difference.square().mean((1, 2)), None if mask is None else mask.bool().any(1), reduction)


def _sign(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).to(values.dtype)


def _radial(first: Tensor, second: Tensor) -> Tensor:
    squared = first.square().sum(-1).unsqueeze(2) + second.square().sum(-1).unsqueeze(1) - 2 * first @ second.transpose(1, 2)
    return torch.exp(-squared.clamp(min=0) / 8)


def singular_features(values: Tensor, num_vectors: int, mask: Tensor | None = None) -> Tensor:
    """[B, C, k]: right singular vectors of the [P, C] feature, scaled by the singular values' shares."""
    flat = positions(values)
    flat = flat if mask is None else flat.masked_fill(~mask.bool().unsqueeze(-1), 0.0)
    scales, vectors = TopSingular.apply(flat, min(num_vectors, *flat.shape[1:]))  # type: ignore[no-untyped-call]
    # A singular vector has no sign of its own; the side on which its sum is positive is taken.
    vectors = vectors * _sign(vectors.detach().sum(1, keepdim=True))
    return F.normalize(scales, dim=-1).unsqueeze(1) * vectors


class TopSingular(torch.autograd.Function):
    """The k largest singular values [B, k] and right singular vectors [B, C, k] of [B, P, C].

    The gradient is exact where the singular values differ; gaps below a bound are held at it, so that equal values
    (dead channels, few positions) give a finite gradient.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, num_vectors: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Values and vectors."""
        _, values, transposed = torch.linalg.svd(matrix, full_matrices=False)
        vectors = transposed.transpose(1, 2)
        ctx.save_for_backward(matrix, values, vectors)
        return values[:, :num_vectors], vectors[:, :, :num_vectors]

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor, grad_vectors: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Through the eigenvectors of MᵀM, whose eigenvalues are the squared singular values."""
        matrix, values, vectors = ctx.saved_tensors
        k = grad_values.shape[1]
        top, squared = vectors[:, :, :k], values.square()
        largest = squared[:, :1].clamp(min=1e-12)
        gap = squared[:, None, :k] - squared[:, :, None]
        bound = (1e-4 * largest).unsqueeze(1)
        gap = torch.where(gap.abs() < bound, torch.where(gap < 0, -bound, bound), gap)
        inside = vectors.transpose(1, 2) @ grad_vectors
        own = torch.eye(values.shape[1], k, device=values.device, dtype=torch.bool)
        within = vectors @ (inside / gap).masked_fill(own, 0.0)
        outside = (grad_vectors - vectors @ inside) / torch.maximum(squared[:, None, :k], bound)
        moved, projected = within + outside, matrix @ top
        through_vectors = (matrix @ moved) @ top.transpose(1, 2) + projected @ moved.transpose(1, 2)
        left = projected / values[:, None, :k].clamp(min=1e-6)
        return through_vectors + (left * grad_values.unsqueeze(1)) @ top.transpose(1, 2), None


class FlowLoss(PairedLoss):
    """Base of losses on each pair of consecutive entries of `layers`."""

    kind: ClassVar[str] = "relation"
    ranks: ClassVar[tuple[int, ...]] = (3, 4)
    nearest: ClassVar[str] = "gram"

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_TWO, project: str = "auto") -> None:
        super().__init__(layers=layers, project=project)
        if len(self.layers) < 2:
            raise RecipeError(f"layers is {layers!r}", "at least two pairs, a flow goes from one to the next", "add a pair")

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        super().check(student_shape, teacher_shape, names)
        if len(student_shape) == 4 and 0 in (*student_shape[2:], *teacher_shape[2:]):
            raise NeedsError(f"{loss_name(self)}: {names} hold no positions", "maps with positions", "change layers")

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Mean over flows of the sum over rows."""
        del batch
        taps = teacher_taps(teacher)
        students, teachers = [], []
        for index, (student_layer, teacher_layer) in enumerate(self.layers):
            students.append(self.bridged(index, student.taps[tap_name(self.role, student_layer)]))
            teachers.append(taps[tap_name(self.role, teacher_layer)].detach())
        mask = mask_for(teachers[0], student.token_mask)
        flows = [self.flow(*own, *other, mask) for own, other in zip(pairwise(students), pairwise(teachers))]
        return LossValue(sum=torch.stack(flows).mean(), count=float(student.logits.shape[0]))

    def flow(
        self,
        student_first: Tensor,
        student_second: Tensor,
        teacher_first: Tensor,
        teacher_second: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """Sum over rows for one flow."""
        raise TypeError(f"{type(self).__name__} does not define flow")


class FSP(FlowLoss):
    """Flow between layers; see `functional.fsp`. Source: Yim et al. 2017 (CVPR)."""

    def flow(
        self,
        student_first: Tensor,
        student_second: Tensor,
        teacher_first: Tensor,
        teacher_second: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        return fsp(student_first, student_second, teacher_first, teacher_second, mask=mask, reduction="sum")


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
