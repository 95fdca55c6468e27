"""Losses of users: plain functions of logits and labels, as losses of the trainer.

Shapes: B batch, T tokens, C classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, RecipeError
from potstill.ground.code import plain_name
from potstill.losses.contract import Loss, LossValue, StudentView
from potstill.losses.response import logit_mask

TEMPERATURE = "temperature"
WRAP = "wrap it: def my_loss(student_logits, teacher_logits): return ..."
STUDENT, TEACHER, LABELS, MASK = ("student_logits", "student"), ("teacher_logits", "teacher"), ("label", "labels"), ("mask",)
AMBIGUOUS = ("target", "targets", "y", "y_true", "truth", "gold")  # the teacher's logits, or the labels?
_READ = (*STUDENT, *TEACHER, *LABELS, *MASK)


class FunctionLoss(Loss):
    """A function as a loss.

    The function takes, by these names, what it reads of ``student_logits`` (or ``student``), ``teacher_logits`` (or ``teacher``),
    ``labels`` and ``mask``; the first two positional ones may have any names. Its further parameters have defaults and are
    options. It returns one value per row, [B], or the mean over the rows. One value per row is right however a batch is cut; a
    mean is weighed by the rows of each micro-batch.

    Args:
        function: It.
        options: Values of its further parameters.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        self.function, self.options = function, options
        self.roles = roles_of(function)
        self.reads_labels = "labels" in self.roles.values()
        if TEMPERATURE in options:  # set anew before each step where it has a schedule
            self.temperature = options[TEMPERATURE]

    @property
    def name(self) -> str:
        """The function's own."""
        return plain_name(self.function)

    def needs_teacher(self) -> tuple[str, ...]:
        return ("logits",) if "teacher" in self.roles.values() else ()

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over rows."""
        values: dict[str, Any] = {"student": student.logits, "mask": logit_mask(student)}
        if teacher is not None and self.needs_teacher():
            values["teacher"] = teacher.logits.detach()
        if self.reads_labels:
            values["labels"] = batch["labels"]
        options = self.options | ({TEMPERATURE: self.temperature} if TEMPERATURE in self.options else {})
        found = self.function(*(values[role] for role in self.roles.values()), **options)
        count = float(len(student.logits))
        if not isinstance(found, Tensor) or found.dim() > 1 or (found.dim() == 1 and len(found) != count):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise NeedsError(
                f"loss {self.name!r} returned {shape} for a batch of {int(count)} rows",
                "a tensor with one value per row, [B], or their mean",
                "return values.mean(), or reduce all axes but the first",
            )
        if student.logits.requires_grad and not found.requires_grad:
            raise NeedsError(
                f"loss {self.name!r} has no gradient: what it returned does not follow from the student's logits",
                "a result of torch operations on student_logits, without detach(), argmax or numpy",
                "compute with the tensor; for a batch without a value return 0 * student_logits.sum()",
            )
        return LossValue(sum=found.sum() if found.dim() else found * count, count=count)


def roles_of(function: Callable[..., Any]) -> dict[str, str]:
    """The parameters without a default, in order, and what is handed to each: student, teacher, labels or mask.

    Raises:
        RecipeError: One cannot be given.
    """
    roles: dict[str, str] = {}
    for name, parameter in _parameters(function).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        role = next((role[-1] for role in (STUDENT, TEACHER, LABELS, MASK) if name in role), None)
        if role is None and parameter.default is parameter.empty:
            role = None if name.lower() in AMBIGUOUS else {0: "student", 1: "teacher"}.get(len(roles))
            if role is None or parameter.kind is parameter.KEYWORD_ONLY or role in roles.values():
                raise _unknown(function, name)
        if role is not None and parameter.kind is not parameter.KEYWORD_ONLY:
            roles[name] = role
    if "student" not in roles.values():
        raise _unknown(function, next(iter(_parameters(function)), "nothing"))
    return roles


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The options of a function and their defaults."""
    return {
        name: one.default for name, one in _parameters(function).items() if name not in _READ and one.default is not one.empty
    }


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    called = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        return inspect.signature(called).parameters
    except (TypeError, ValueError) as err:  # written in C
        raise RecipeError(
            f"the parameters of the loss function {plain_name(function)!r} cannot be read", "a function of Python", WRAP
        ) from err


def as_class(found: Any, name: str) -> Any:
    """What builds a loss: a class on `Loss` as it is, a function through `FunctionLoss`; a loss in memory is copied.

    Raises:
        RecipeError: It is neither.
    """
    if isinstance(found, type):
        if issubclass(found, Loss):
            return found
        base = "torch.nn.Module" if issubclass(found, torch.nn.Module) else "class"
        raise RecipeError(
            f"{name} is a {base} that is not built on potstill.losses.Loss",
            "a function of logits, or a class on potstill.losses.Loss",
            WRAP,
        )
    if isinstance(found, Loss):
        return found
    roles_of(found)
    return found


def _unknown(function: Callable[..., Any], parameter: str) -> RecipeError:
    if parameter.lower() in AMBIGUOUS:
        return RecipeError(
            f"the loss function {plain_name(function)!r} has the parameter {parameter!r}: the teacher's logits, or the labels?",
            "teacher_logits or labels as its name",
            WRAP,
        )
    return RecipeError(
        f"the loss function {plain_name(function)!r} has the parameter {parameter!r}, which cannot be given",
        "student_logits, teacher_logits, labels, mask, and options with a default",
        "rename the parameter, give it a default, or write a class on potstill.losses.Loss",
    )
