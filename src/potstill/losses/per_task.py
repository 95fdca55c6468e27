"""Any response loss, task by task: each row is compared inside the classes of its own task.

Shapes: B batch, C classes of all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from potstill.answers.units import by_task
from potstill.contracts.signal import TeacherSignal
from potstill.data.collate import TASK_CLASSES
from potstill.errors import NeedsError
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses.catalogue import LOSSES, build
from potstill.losses.contract import Loss, LossValue, Shapes, StudentView
from potstill.losses.layers import loss_name

_PROBED_CLASSES = 4


class PerTask(Loss):
    """Σ over tasks of a loss on that task's rows and classes.

    Logits are cut to the block of the row's task and labels counted from its start, so that a batch of several tasks gives what
    batches of one task each would give, together; a logit outside its row's block has no gradient. The batch says by
    ``task_classes`` [B, 2] where the block of each row starts and stops.
    Source: ours; the blocks are the task heads on one shared body of Caruana 1997, Multitask Learning, section 2.

    Args:
        loss: A response loss that remembers nothing of single rows or classes.

    Raises:
        NeedsError: A loss that reads inner values, or one with a memory or with learned parts.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        check(loss)
        self.loss = loss
        self.kind, self.unit = loss.kind, loss.unit  # type: ignore[misc]

    @property
    def temperature(self) -> Any:
        """That of the loss, for schedules."""
        return self.loss.temperature

    @temperature.setter
    def temperature(self, value: Any) -> None:
        self.loss.temperature = value

    def needs_student(self) -> tuple[str, ...]:
        return self.loss.needs_student()

    def needs_teacher(self) -> tuple[str, ...]:
        return self.loss.needs_teacher()

    def needs_batch(self) -> tuple[str, ...]:
        return (*self.loss.needs_batch(), TASK_CLASSES)

    def count(self, batch: Mapping[str, Any]) -> Tensor | float:
        """Units of the loss in the whole batch."""
        return self.loss.count(batch)

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """The sum over the blocks that occur in the batch."""
        values = [self._value(student, teacher, *found) for found in by_task(batch)]
        names = dict.fromkeys(name for value in values for name in value.metrics)
        metrics = {name: torch.stack([v.metrics[name] for v in values if name in v.metrics]).mean() for name in names}
        total = torch.stack([value.sum for value in values]).sum()
        return LossValue(sum=total, count=self.count(batch), metrics=metrics)

    def _value(
        self, student: StudentView, teacher: TeacherSignal | None, start: int, stop: int, rows: Tensor, part: dict[str, Any]
    ) -> LossValue:
        """The loss on the rows of one task, each at its own temperature where there is one for each."""
        seen = _cut(student, teacher, start, stop, rows, part)
        temperature = getattr(self.loss, "temperature", None)
        if not isinstance(temperature, Tensor) or temperature.dim() == 0:
            return self.loss(*seen)
        self.loss.temperature = temperature[rows.to(temperature.device)]
        try:
            return self.loss(*seen)
        finally:
            self.loss.temperature = temperature


def check(loss: Loss) -> None:
    """Refuse, with a NeedsError, a loss that reads inner values or keeps something for rows or classes."""
    name = loss_name(loss)
    fault = _fault(loss)
    if fault is not None:
        working = (each for each in LOSSES if _fault(build(each)) is None)
        raise NeedsError(f"loss {name!r} {fault}", f"losses on answers alone: {', '.join(working)}", "take the loss kl")


def _fault(loss: Loss) -> str | None:
    """Why a loss cannot be computed task by task."""
    reads = sorted({*loss.needs_student(), *loss.needs_teacher()} - {"logits"})
    if reads:
        what = f"{', '.join(reads[:3])}{' …' if len(reads) > 3 else ''}"
        return f"reads {what}, and each task has a teacher of its own, whose inner values mean something else"
    shapes = Shapes({}, (2, _PROBED_CLASSES))
    with torch.random.fork_rng(devices=[]):
        loss.prepare(shapes, shapes, num_rows=2)
    if any(True for _ in (*loss.parameters(), *loss.buffers())):
        return "learns or remembers something over all classes, and each task has classes of its own"
    return None


def _cut(
    student: StudentView, teacher: TeacherSignal | None, start: int, stop: int, rows: Tensor, part: dict[str, Any]
) -> tuple[StudentView, TeacherSignal | None, dict[str, Any]]:
    """What a loss sees of the rows of one task."""
    rows = rows.to(student.logits.device)
    view = replace(student, logits=student.logits[rows, start:stop], taps={}, token_mask=None, unit_mask=None)
    signal = None if teacher is None else TeacherSignal(DenseLogits(teacher.logits[rows, start:stop]))
    if "labels" in part:
        part["labels"] = torch.where(part["labels"] < 0, part["labels"], part["labels"] - start)
    return view, signal, part
