"""Forward passes of the student, and of further networks of its shape, as the losses read them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from potstill.contracts.answers import Answers
from potstill.data.collate import NOT_INPUTS
from potstill.losses.contract import StudentView
from potstill.models.inputs import InputNames
from potstill.models.taps import Taps
from potstill.training.preparation import student_modules


class StudentReader:
    """Runs the student on batches.

    Args:
        accelerator: Casts the forward to the precision of training.
        differentiates_twice: Whether a loss reads gradients, which needs attention that can be differentiated twice.

    Attributes:
        answer_shape: Of the answer to one row, once `prepare` of the trainer has seen one; needed by `inner`.
    """

    def __init__(
        self, model: nn.Module, needs: Collection[str], accelerator: Any, answers: Answers, *, differentiates_twice: bool
    ) -> None:
        self.taps = Taps(model, needs)
        self.roles = student_modules(model)
        self.answer_shape: tuple[int, ...] = ()
        self._names = InputNames(model)
        self.answers = answers
        self._accelerator, self._differentiates_twice = accelerator, differentiates_twice

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What of a batch goes into the student."""
        inputs = {name: value for name, value in batch.items() if name not in NOT_INPUTS and not name.startswith("teacher_")}
        return self._names.take(inputs)

    def view(self, batch: Mapping[str, Any], network: Taps | None = None) -> StudentView:
        """The answers and the values that the losses read, of the student or of another network."""
        with self._forward():
            logits, taps = (network or self.taps).run(self.inputs(batch))
        answers, unit_mask = self.answers.arrange({"logits": logits}, batch)
        return StudentView(answers, taps, batch.get("attention_mask"), self.roles, unit_mask)

    @property
    def can_stop(self) -> bool:
        """Whether `inner` may be asked: the values are known to come before the answers, which have one place for each row."""
        return self.taps.can_stop and len(self.answer_shape) == 1

    def inner(self, batch: Mapping[str, Any]) -> StudentView:
        """Inner values alone, of a forward that is left behind the last of them; the logits are not a number."""
        inputs = self.inputs(batch)
        with self._forward():
            taps = self.taps.reach(inputs)
        first = next(value for value in inputs.values() if isinstance(value, Tensor))
        nowhere = torch.full((1, 1), float("nan"), device=first.device).expand(first.shape[0], *self.answer_shape)
        return StudentView(nowhere, taps, batch.get("attention_mask"), self.roles, None)

    @contextlib.contextmanager
    def _forward(self) -> Iterator[None]:
        """The precision of training (the student's wrapper casts too, that of other networks does not), and its attention."""
        is_twice = self._differentiates_twice and torch.is_grad_enabled()
        with self._accelerator.autocast(), sdpa_kernel(SDPBackend.MATH) if is_twice else contextlib.nullcontext():
            yield


def within_forward(student: Any, wrapper: nn.Module, inputs: Mapping[str, Any], compute: Callable[[], Tensor]) -> Tensor:
    """Compute within the wrapper's forward, so that it sees every parameter that takes part.

    Args:
        student: The wrapped model, whose forward is exchanged for this one call.
        compute: Gives what the wrapper returns.
    """
    own = student.__dict__.get("forward")

    def restore() -> None:
        if own is None:
            student.__dict__.pop("forward", None)
        else:
            student.forward = own

    def forward(*_: Any, **__: Any) -> Tensor:
        restore()
        return compute()

    student.forward = forward
    try:
        return wrapper(**inputs)
    finally:
        restore()
