"""What the answers of a task are, and which losses teach them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answers:
    """What a task's answers are and how they are learned.

    Args:
        kind: "class" (one class excludes the others), "labels" (several at once), "numbers" or "embedding".
        from_labels: The loss that learns from labels, a name and its options; None where rows have none.
        from_teacher: The losses that learn from the teacher's answers, each with its share as ``weight``.
    """

    kind: str = "class"
    from_labels: Mapping[str, Any] | None = field(default_factory=lambda: {"name": "ce"})
    from_teacher: tuple[Mapping[str, Any], ...] = ({"name": "kl"},)

    @property
    def is_distribution(self) -> bool:
        """Whether the logits are those of classes that exclude each other."""
        return self.kind == "class"


ONE_CLASS = Answers()


class OneClass:
    """The part of a task whose rows have one class each."""

    metric = "accuracy"
    label_kind = "class"

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """One distribution over classes: cross-entropy with labels, KL with the teacher."""
        del labels
        return ONE_CLASS

    def metric_for(self, labels: np.ndarray) -> str:
        """The same measure on any rows."""
        del labels
        return self.metric
