"""Tasks by name: put together out of the rows of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from potstill import answers, modalities
from potstill.contracts.task import TASKS, TaskRow
from potstill.errors import RecipeError
from potstill.ground.tables import look_up

if TYPE_CHECKING:
    from potstill.tasks.task import ModelTask


def build(name: str) -> ModelTask:
    """The task of that name.

    Raises:
        RecipeError: No such task; the message suggests the nearest one.
    """
    from potstill.tasks.task import ModelTask

    row = look_up(TASKS, name, kind="task")
    problems = {other: answers.build(each.answers).problem_type for other, each in TASKS.items() if each.head == row.head}
    siblings = {problem: other for other, problem in problems.items() if problem is not None}
    return ModelTask(name, modalities.build(row.modality), answers.build(row.answers), row.head, siblings)


def plain_tasks() -> dict[str, TaskRow]:
    """The tasks with one class for each row."""
    kinds = {name: answers.build(row.answers) for name, row in TASKS.items()}
    return {name: TASKS[name] for name, kind in kinds.items() if kind.is_distribution and kind.is_of_row}


def of_several(task: Any) -> ModelTask:
    """The task for rows of several tasks of this kind.

    Raises:
        RecipeError: Rows that do not have one class each.
    """
    from potstill.tasks.task import ModelTask

    plain = plain_tasks()
    if task.name not in plain:
        raise RecipeError(
            f"one teacher for each task is given, and the task is {task.name}",
            f"teachers for {' or '.join(plain)}",
            "take classifiers, or one teacher",
        )
    return ModelTask(task.name, task.modality, answers.build("tasks"), task.head)
