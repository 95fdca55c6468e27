"""The student's own moving average as its teacher."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.errors import TrainingError
from potstill.ground.devices import frozen
from potstill.knowledge.responses.dense import DenseLogits
from potstill.models.frozen import fingerprint_of
from potstill.training.averaging import WeightAverage


class SelfAverage:
    """What the moving average of the student's weights says: the teacher of `mean_teacher`.

    The average is that of `DistillationTrainer(average_decay=…)`, so it is what is evaluated, saved and delivered, and it is
    restored with a checkpoint. It has no weights of its own: the student runs a second time with the averaged ones inside.

    Args:
        noise: The average answers with dropout of its own draw, as the student does; its norms use their running statistics.

    Source: Tarvainen and Valpola 2017 (arXiv 1703.01780), section 2 and eq. 2.
    """

    is_fixed = False
    provides = frozenset({"logits"})

    def __init__(self, *, noise: bool = True) -> None:
        self.noise = noise
        self._model: nn.Module | None = None
        self._average: WeightAverage | None = None
        self._answer_of: Callable[[Mapping[str, Any]], Tensor] | None = None

    @property
    def fingerprint(self) -> str:
        """Of the student as it is now."""
        return fingerprint_of(self._followed())

    def can_provide(self, need: str) -> bool:
        """Logits alone."""
        return need == "logits"

    def follow(
        self,
        model: nn.Module,
        average: WeightAverage | None,
        answer_of: Callable[[Mapping[str, Any]], Tensor],
    ) -> None:
        """Answer for this student from now on, by one forward of it, with this average of its weights."""
        self._model, self._average, self._answer_of = model, average, answer_of

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """The student as it stands, at rest."""
        del needs
        return self._answer(batch, noise=False)

    def training_signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """The averaged student."""
        del needs
        if self._average is None:
            raise TrainingError(
                "the teacher is the student's average, and no average is kept",
                "average_decay, a number between 0 and 1",
                "set average_decay=0.999",
            )
        with self._average.applied():
            return self._answer(batch, noise=self.noise)

    def _answer(self, batch: Mapping[str, Any], *, noise: bool) -> TeacherSignal:
        model = self._followed()
        assert self._answer_of is not None
        with _resting(model, noise=noise):
            return TeacherSignal(DenseLogits(self._answer_of(batch).float()))

    def _followed(self) -> nn.Module:
        if self._model is None:
            raise TrainingError("the average follows no student", todo="give it to DistillationTrainer as teacher=SelfAverage()")
        return self._model


@contextlib.contextmanager
def _resting(model: nn.Module, *, noise: bool) -> Iterator[None]:
    """`frozen`, but where there is noise everything that trains does so, dropout within attention too; norms over rows rest."""
    noisy = [part for part in model.modules() if part.training and not isinstance(part, nn.modules.batchnorm._NormBase)]
    with frozen(model):
        for part in noisy if noise else ():
            part.training = True
        yield
