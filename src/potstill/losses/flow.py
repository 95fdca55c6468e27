"""Relation losses between layers: how a network's features flow from one layer to the next.

Shapes: B batch, T tokens, C channels, H height, W width of a map, P positions (T or H·W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, RecipeError
from potstill.ground.precision import full_precision
from potstill.losses.bridges import match_maps
from potstill.losses.contract import LossValue, StudentView
from potstill.losses.layers import BridgedLoss, loss_name, mask_for
from potstill.losses.options import LayerPair
from potstill.losses.reduction import Reduction, over_rows
from potstill.losses.relation import positions

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
    """
    student = [positions(value, mask) for value in match_maps(student_first, student_second)]
    teacher = [positions(value, mask) for value in match_maps(teacher_first, teacher_second)]
    counts = [float(side[0].shape[1]) if mask is None else mask.sum(1).clamp(min=1) for side in (student, teacher)]
    widths = student[0].shape[2] * student[1].shape[2]
    values = _flow_distance(*student, *teacher, *counts) / widths
    return over_rows(values, None if mask is None else mask.bool().any(1), reduction)


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


class FlowLoss(BridgedLoss):
    """Base of losses on each pair of consecutive entries of `layers`; their formula takes two values of each side."""

    kind: ClassVar[str] = "relation"
    ranks: ClassVar[tuple[int, ...]] = (3, 4)

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
        ours, teachers = zip(*self.pairs(student, teacher))
        students = [self.bridged(index, value) for index, value in enumerate(ours)]
        arguments = self.arguments(mask_for(teachers[0], student.token_mask))
        flows = [
            self.formula(*own, *other, **arguments, reduction="sum") for own, other in zip(pairwise(students), pairwise(teachers))
        ]
        return LossValue(sum=torch.stack(flows).mean(), count=float(student.logits.shape[0]))


class FSP(FlowLoss):
    """Flow between layers; see `functional.fsp`. Source: Yim et al. 2017 (CVPR)."""

    formula = staticmethod(fsp)
