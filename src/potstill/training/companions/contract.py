"""What a companion of training can do: the steps at which the trainer asks it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.losses.contract import StudentView
from potstill.models.taps import Taps
from potstill.training.terms import Term

Compute = Callable[[StudentView, TeacherSignal | None, Mapping[str, Any]], Tensor]
Collate = Callable[[list[Any]], dict[str, Any]]


class Host(Protocol):
    """The parts of a trainer that companions use."""

    model: Any
    args: Any
    state: Any
    objective: Any
    companions: Sequence[Companion]

    def view_of(self, network: Taps, batch: Mapping[str, Any]) -> StudentView:
        """One forward of a network of the student's shape."""
        ...


class Companion:
    """Something that learns or acts together with the student; every step does nothing unless a companion says otherwise.

    Attributes:
        key: Of its tensors in a checkpoint.
        title: How messages name them.
        replaces_teacher: The student learns from it, and no teacher is asked.
        changes_inputs: Batches of training hold rows that only a live teacher can answer.
        wants_dropout: The student keeps its dropout.
        reads_answers: It reads the student's logits in every step.
        default_losses: The objective where none is given.
        networks: Further networks that learn as the student does, each with its own clipped gradient and evaluation. They are
            part of the checkpoint; the best of all is kept by `end`.
    """

    key: ClassVar[str] = ""
    title: ClassVar[str] = ""
    replaces_teacher: ClassVar[bool] = False
    changes_inputs: ClassVar[bool] = False
    wants_dropout: ClassVar[bool] = False
    reads_answers: ClassVar[bool] = False
    default_losses: ClassVar[Sequence[Mapping[str, Any]]] = ()
    networks: Sequence[Taps] = ()

    def check(self, given: Collection[str]) -> None:
        """Refuse other arguments of the trainer, by name, that do not fit."""

    def check_terms(self, terms: Sequence[Term]) -> None:
        """Refuse losses that do not fit."""

    def source(self, teacher: Any) -> Any:
        """The source of knowledge, made of the teacher's."""
        return teacher

    def collator(self, base: Collate) -> Collate:
        """The collator of training rows, made of the one of evaluation."""
        return base

    def batches(self, batches: Any, dataset: Any, seed: int) -> Any:
        """The batch sampler of training, made of the plain one."""
        return batches

    def build(self, host: Host) -> None:
        """Make what is needed, once, before the first batch."""

    def begin(self, host: Host) -> None:
        """Training starts; a checkpoint is restored after this."""

    def objective(self, plain: Compute) -> Compute:
        """The objective of a micro-batch, made of the student's own."""
        return plain

    def after_step(self) -> None:
        """The weights have moved."""

    def weights(self) -> contextlib.AbstractContextManager[None]:
        """The student has the weights inside that are evaluated and saved."""
        return contextlib.nullcontext()

    def after_last_step(self) -> None:
        """The weights move no more; the best ones are loaded after this, where they are kept."""

    def end(self, host: Host) -> None:
        """Training is over, and the weights to keep are in the model."""

    def state(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint, besides the networks."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state` gave."""
