"""Gradient losses: how sensitive the output is to the input or the embedding.

Shapes: B batch, C classes, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, TrainingError
from potstill.ground.precision import full_precision
from potstill.losses.contract import Loss, LossValue, Shapes, StudentView
from potstill.losses.layers import mask_for, positions_of, shape_of, teacher_taps
from potstill.losses.reduction import Reduction, over_rows, root


@full_precision
def jacobian(
    student_gradient: Tensor, teacher_gradient: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """‖ ∇s/‖∇s‖ − ∇t/‖∇t‖ ‖² per row, ∇ the gradient of the teacher's first class by the input.

    Where the widths of token gradients differ, the length of the gradient per token (its saliency) is compared. A gradient of
    zero, as under a head of zeros, has no direction: its row carries the loss ‖0 − ∇t/‖∇t‖‖² = 1 and moves nothing.
    Source: Srinivas and Fleuret 2018 (arXiv 1803.00443).

    Args:
        student_gradient: [B, D], [B, T, D] or [B, C, H, W].
        teacher_gradient: The same shape, or [B, T, D'].
    """
    if student_gradient.shape != teacher_gradient.shape:
        student_gradient, teacher_gradient = (
            root(value.square().sum(1 if value.dim() == 4 else -1)) for value in (student_gradient, teacher_gradient)
        )
    unit = []
    for value in (student_gradient, teacher_gradient):
        kept = value if mask is None else value.masked_fill(~mask.bool().view(*mask.shape, *[1] * (value.dim() - 2)), 0.0)
        unit.append(_direction(kept.flatten(1)))
    rows = None if mask is None else mask.bool().any(1)
    return over_rows((unit[0] - unit[1]).square().sum(-1), rows, reduction)


def _direction(values: Tensor) -> Tensor:
    """Rows at length one; a row of zeros stays one, and has no gradient."""
    largest = values.detach().abs().amax(-1, keepdim=True)
    is_there = largest > torch.finfo(values.dtype).tiny
    scaled = torch.where(is_there, values, 0.0) / torch.where(is_there, largest, 1.0)  # so that no square underflows
    return scaled * torch.where(is_there, scaled.square().sum(-1, keepdim=True), 1.0).rsqrt()


def output_gradient(logits: Tensor, tap: Tensor, classes: Tensor, *, create_graph: bool) -> Tensor:
    """∂ Σ_b logits[b, classes_b] / ∂ tap, in the tap's shape; refused where no graph leads from the tap to the logits."""
    chosen = logits.gather(-1, classes.unsqueeze(-1)).sum()
    found = None
    if chosen.requires_grad and tap.requires_grad:
        found = torch.autograd.grad(chosen, tap, create_graph=create_graph, allow_unused=True)[0]
    if found is None:
        raise TrainingError(
            "jacobian cannot take the gradient of the output by its tap",
            "a tap that is computed with gradients and leads to the logits",
            "tap the embedding or a block in training mode, or take the loss hidden_mse",
        )
    return found


class Jacobian(Loss):
    """Sensitivity of the output; see `functional.jacobian`. Source: Srinivas and Fleuret 2018 (arXiv 1803.00443).

    The teacher's gradient is the need ``gradient:TAP``: the gradient of its largest logit by its value TAP, which a live
    teacher gives and a cache does not hold. The student's is differentiated a second time, so its attention is computed in
    steps (PyTorch's fused kernels have no second derivative).

    Args:
        tap: The value by which the output is differentiated, on both sides: "embedding", "hidden:1" …, or "input" of images.
    """

    kind: ClassVar[str] = "gradient"
    of_rows: ClassVar[bool] = True

    def __init__(self, *, tap: str = "embedding") -> None:
        super().__init__()
        self.tap = tap

    def needs_student(self) -> tuple[str, ...]:
        return ("logits", self.tap)

    def needs_teacher(self) -> tuple[str, ...]:
        return ("logits", f"gradient:{self.tap}")

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        student_shape = shape_of(student, self.tap, "student", self)
        teacher_shape = shape_of(teacher, f"gradient:{self.tap}", "teacher", self)
        are_comparable = len(student_shape) > 2 and positions_of(student_shape) == positions_of(teacher_shape)
        if not are_comparable and student_shape != teacher_shape:
            raise NeedsError(
                f"jacobian cannot compare gradients {list(student_shape)} and {list(teacher_shape)}",
                "the same tokens or positions on both sides",
                "change tap, or take the loss sp",
            )

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over rows."""
        theirs = teacher_taps(teacher)[f"gradient:{self.tap}"].detach()
        classes = teacher.logits.detach().argmax(-1) if teacher is not None else student.logits.argmax(-1)
        own = output_gradient(student.logits, student.taps[self.tap], classes, create_graph=True)
        total = jacobian(own, theirs, mask=mask_for(own, student.token_mask), reduction="sum")
        return LossValue(sum=total, count=float(student.logits.shape[0]))
