"""What the answers of a task are, and which losses teach them: said once, read by methods, training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NO_LABEL = -100


@dataclass(frozen=True)
class Answers:
    """What a task's answers are and how they are learned.

    Args:
        kind: "class" (one class excludes the others), "tasks" (one class out of those of the row's task), "span" (a first and a
            last place of the row), "labels" (several at once), "numbers" or "embedding"; `potstill.answers.judges` has a judge
            for each.
        from_labels: The loss that learns from labels, a name and its options; None where rows have none to learn from.
        from_teacher: The losses that learn from the teacher's answers, each with its share as ``weight``.
        scale: What one unit of error is for each number of a row; None for 1.
        per_unit: Whether each unit of a row has an answer of its own: its words, not the row.
    """

    kind: str = "class"
    from_labels: Mapping[str, Any] | None = field(default_factory=lambda: {"name": "ce"})
    from_teacher: tuple[Mapping[str, Any], ...] = ({"name": "kl"},)
    scale: Sequence[float] | None = None
    per_unit: bool = False

    @property
    def is_distribution(self) -> bool:
        """Whether the logits are those of classes that exclude each other, so that softmax and temperature mean something."""
        return self.kind in ("class", "span", "tasks")

    @property
    def is_of_row(self) -> bool:
        """Whether the row as a whole is answered, not its words or places."""
        return self.kind != "span" and not self.per_unit


ONE_CLASS = Answers()
CLASS_OF_EACH_UNIT = Answers(per_unit=True)
SEVERAL_TASKS = Answers("tasks")
SPAN = Answers("span")
SEVERAL_LABELS = Answers("labels", {"name": "bce", "target": "labels"}, ({"name": "bce"},))


class OneClass:
    """The part of a task whose rows have one class each."""

    metric = "accuracy"
    label_kind = "class"
    config_values: Mapping[str, Any] = {}

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """One distribution over classes: cross-entropy with labels, KL with the teacher."""
        del labels
        return ONE_CLASS

    def metric_for(self, labels: np.ndarray) -> str:
        """The same measure on any rows."""
        del labels
        return self.metric


def known_rows(labels: np.ndarray) -> np.ndarray:
    """Rows with a label in any place [N] bool; `NO_LABEL` and NaN stand for none.

    Args:
        labels: [N] or [N, ...].
    """
    values = np.asarray(labels)
    known = values != NO_LABEL
    if values.dtype.kind == "f":
        known &= ~np.isnan(values)
    return known.reshape(len(values), -1).any(1)
