"""Several classification tasks of one modality in one model: one head, a block of classes for each task."""

# N rows, C classes of all tasks

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.answers.quality import classification_quality
from potstill.contracts.answers import SEVERAL_TASKS, Answers
from potstill.data.task_rows import SEPARATOR, TaskCollator, blocks_of
from potstill.errors import RecipeError
from potstill.tasks.image_classification import ImageClassification
from potstill.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from potstill.tasks.contract import Task

    _Base = TextClassification
else:
    _Base = object


class SeveralTasks(_Base):
    """The part of a task whose rows each belong to one of several tasks; `label_names` are ``task/label`` of all of them.

    Its batches say which classes a row may have (``task_classes``); what a model answers beside them does not count. Measures
    are those of classification: of each task under ``task/accuracy`` and so on, and their plain means.
    """

    label_names: Sequence[str] = ()

    @property
    def blocks(self) -> dict[str, tuple[int, int]]:
        """Task → (start, stop) of its classes."""
        return blocks_of(self.label_names)

    @property
    def fewest_classes(self) -> int:
        """Of the task that has fewest; 0 where labels are not known."""
        return min((stop - start for start, stop in self.blocks.values()), default=0)

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """One distribution over the classes of the row's task."""
        del labels
        return SEVERAL_TASKS

    def collator(self, processor: Any) -> Callable[..., Any]:  # type: ignore[override]
        """The task's own, with ``task_classes`` beside the inputs."""
        return TaskCollator(super().collator(processor), tuple(self.blocks.values()))

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """Measures of each task that has labelled rows, inside its block; the plain names are means over tasks."""
        del teacher
        found = {}
        for task, (start, stop) in self.blocks.items():
            rows = (labels >= start) & (labels < stop)
            if rows.any():
                found[task] = classification_quality(logits[rows, start:stop], labels[rows] - start)
        if not found:
            return classification_quality(logits, labels)  # which refuses rows without labels
        means = {name: float(np.mean([one[name] for one in found.values()])) for name in next(iter(found.values()))}
        return means | {f"{task}{SEPARATOR}{name}": value for task, one in found.items() for name, value in one.items()}


class SeveralTextTasks(SeveralTasks, TextClassification):
    """Several tasks on texts."""


class SeveralImageTasks(SeveralTasks, ImageClassification):  # type: ignore[misc]  # for the checker alone the part is one of texts
    """Several tasks on images."""


def of_several(task: Task) -> Task:
    """The task for rows of several tasks of this kind.

    Raises:
        RecipeError: No one class per row.
    """
    kinds: dict[str, Any] = {TextClassification.name: SeveralTextTasks, ImageClassification.name: SeveralImageTasks}
    if task.name not in kinds:
        raise RecipeError(
            f"one teacher for each task is given, and the task is {task.name}",
            f"teachers for {' or '.join(kinds)}",
            "take classifiers, or one teacher",
        )
    made: Task = kinds[task.name]()
    return made
