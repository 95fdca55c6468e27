"""The judge of answers to rows of several tasks: like one class, and of each task by itself.

Shapes: N rows, K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from potstill.answers.fidelity import Interval, agreement
from potstill.answers.judges import ClassJudge, bootstrap
from potstill.data.task_rows import numbers_of
from potstill.evaluate.quality import Predictions


class TasksJudge(ClassJudge):
    """Answers that are one class out of those of the row's task; other classes cannot be chosen in them."""

    def intervals(self, answers: Mapping[str, Predictions], metric: str) -> dict[str, Interval]:
        """Of the mean accuracy over tasks, each task resampled with its rows."""
        if metric != "accuracy":
            return {}
        tasks = np.unique(numbers_of(answers["student"].row_ids))

        def row_sums(found: Predictions) -> np.ndarray:
            is_right = found.logits.argmax(-1) == found.labels
            mine = (numbers_of(found.row_ids)[:, None] == tasks) & (found.labels >= 0)[:, None]
            return np.concatenate([mine & is_right[:, None], mine], axis=1).astype(np.float64)

        def mean_accuracy(means: np.ndarray) -> float:
            right, rows = np.split(means, 2)
            return float((right[rows > 0] / rows[rows > 0]).mean())

        return bootstrap(answers, metric, row_sums, mean_accuracy)


def agreement_of(student: Predictions, teacher: Predictions, number: int) -> float | None:
    """Agreement on the rows of one task; None where there are none."""
    rows = numbers_of(student.row_ids) == number
    return agreement(student.logits[rows], teacher.logits[rows]) if rows.any() else None
