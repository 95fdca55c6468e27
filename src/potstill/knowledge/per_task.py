"""A teacher for each task: every row is answered by the teacher of its own task.

Shapes: B batch, C classes of all tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from potstill.answers.units import FLOOR, by_task
from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import TeacherSource, require
from potstill.data.collate import TASK_CLASSES
from potstill.errors import ModelError
from potstill.ground.disk import fingerprint
from potstill.knowledge.responses.dense import DenseLogits
from potstill.models.labels import final_linear


class PerTaskTeacher:
    """Teachers of different tasks as one source.

    The batch says by ``task_classes`` [B, 2] where the classes of each row's task start and stop; each teacher is asked about the
    rows of its own task only. The logits of all other classes are −10⁴ (`answers.units.FLOOR`), a probability of zero.

    Args:
        sources: (start, stop) of a task's classes → its teacher, which answers with those classes alone or with all C.
    """

    def __init__(self, sources: Mapping[tuple[int, int], TeacherSource]) -> None:
        self.sources = dict(sources)
        self.num_classes = max(stop for _, stop in self.sources)

    @property
    def fingerprint(self) -> str:
        """Of all teachers and their places."""
        return fingerprint([[*block, source.fingerprint] for block, source in self.sources.items()])

    def can_provide(self, need: str) -> bool:
        """Logits alone."""
        return need == "logits" and all(source.can_provide("logits") for source in self.sources.values())

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """The logits [B, C] of one batch; refuses a task without a teacher, and a teacher with other classes."""
        require(needs, self.can_provide, source="a teacher for each task", remedy="choose losses on logits")
        num_rows = len(batch[TASK_CLASSES])
        whole: Tensor | None = None
        for start, stop, rows, part in by_task(batch):
            logits = self._ask(start, stop, part)
            whole = logits.new_full((num_rows, self.num_classes), FLOOR) if whole is None else whole
            whole[rows.to(whole.device), start:stop] = logits
        assert whole is not None
        return TeacherSignal(DenseLogits(whole))

    def _ask(self, start: int, stop: int, batch: Mapping[str, Any]) -> Tensor:
        source = self.sources.get((start, stop))
        if source is None:
            raise ModelError(f"no teacher answers the classes {start} to {stop - 1}", f"the blocks {list(self.sources)}")
        logits = source.signal(batch, ("logits",)).logits
        if logits.shape[-1] not in (stop - start, self.num_classes):
            raise ModelError(
                f"the teacher of the classes {start} to {stop - 1} has {logits.shape[-1]} classes",
                f"{stop - start}, or all {self.num_classes}",
            )
        return logits if logits.shape[-1] == stop - start else logits[:, start:stop]


def widen_head(model: nn.Module, start: int, num_classes: int) -> None:
    """Give a teacher's final layer a row for all `num_classes` classes of all tasks, in place; its own begin at `start`.

    The rows of other tasks are zero. A model without a final linear layer with a row for each of its classes is refused.
    """
    config: Any = model.config
    own = int(config.num_labels)
    old = final_linear(model, own)
    new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None).to(old.weight)
    with torch.no_grad():
        for mine, theirs in zip(new.parameters(), old.parameters(), strict=True):
            mine.zero_()
            mine[start : start + own] = theirs
            mine.requires_grad_(theirs.requires_grad)
    path = next(name for name, module in model.named_modules() if module is old)
    parent, _, last = path.rpartition(".")
    setattr(model.get_submodule(parent), last, new.train(old.training))
