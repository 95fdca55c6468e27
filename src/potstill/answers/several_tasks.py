"""One class out of those of the row's task, where rows of several tasks share one head.

Shapes: N rows, C classes of all tasks, K tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from potstill.answers.one_class import ClassJudge, OneClass, class_quality, confusion_of, named_classes
from potstill.contracts.answers import Judge, Predictions
from potstill.data.task_rows import SEPARATOR, TaskCollator, blocks_of, numbers_of


class OwnTaskClass(OneClass):
    """One class of the row's task; `label_names` are ``task/label`` of all tasks.

    Batches say which classes a row may have (``task_classes``); others cannot be chosen in its answer.
    """

    kind = reported = "tasks"

    @property
    def blocks(self) -> dict[str, tuple[int, int]]:
        """Task → (start, stop) of its classes."""
        return blocks_of(self.label_names)

    @property
    def fewest_classes(self) -> int:
        """Of the task that has fewest; 0 where labels are not known."""
        return min((stop - start for start, stop in self.blocks.values()), default=0)

    def batches(self, collator: Callable[..., Any]) -> Callable[..., Any]:
        """The collator with ``task_classes`` added."""
        return TaskCollator(collator, tuple(self.blocks.values()))

    def named(self, found: Predictions, content: pa.Table, rows: Dataset) -> pa.Table:
        """As for one class, among the classes of the rows' task."""
        start, stop = list(self.blocks.values())[int(numbers_of(found.row_ids[0]))]
        names = [name.partition(SEPARATOR)[2] for name in self.label_names[start:stop]]
        return named_classes(found.logits[:, start:stop], names)

    def judge(self) -> Judge:
        """See `TasksJudge`."""
        return TasksJudge(self)


class TasksJudge(ClassJudge):
    """Judges like one class, and each task by itself."""

    answers: OwnTaskClass

    def keep(self, student: Predictions, teacher: Predictions | None) -> dict[str, np.ndarray]:
        """As for classes, and the answer among the classes of the label's task."""
        logits, labels = np.asarray(student.logits), np.asarray(student.labels)
        inside = logits.argmax(-1)
        for start, stop in self.answers.blocks.values():
            rows = (labels >= start) & (labels < stop)
            inside[rows] = start + logits[rows, start:stop].argmax(-1)
        return super().keep(student, teacher) | {"inside": inside}

    def quality(self) -> dict[str, float]:
        """Measures of each task that has labelled rows, among its classes; the plain names are means over tasks."""
        self.confusion()  # refuses rows without labels, and logits that are not finite
        found = {}
        for task, (start, stop) in self.answers.blocks.items():
            rows = (self["label"] >= start) & (self["label"] < stop)
            if rows.any():
                found[task] = class_quality(confusion_of(self["label"][rows] - start, self["inside"][rows] - start, stop - start))
        means = {name: float(np.mean([one[name] for one in found.values()])) for name in next(iter(found.values()))}
        return means | {f"{task}{SEPARATOR}{name}": value for task, one in found.items() for name, value in one.items()}

    def row_sums(self, metric: str) -> tuple[np.ndarray, Callable[[np.ndarray], float]] | None:
        """Of the mean accuracy over tasks, each task resampled with its rows."""
        if metric != "accuracy":
            return None
        tasks = np.unique(numbers_of(self["row"]))
        is_right = self["answered"] == self["label"]
        mine = (numbers_of(self["row"])[:, None] == tasks) & (self["label"] >= 0)[:, None]

        def mean_accuracy(means: np.ndarray) -> float:
            right, rows = np.split(means, 2)
            return float((right[rows > 0] / rows[rows > 0]).mean())

        return np.concatenate([mine & is_right[:, None], mine], axis=1).astype(np.float64), mean_accuracy
