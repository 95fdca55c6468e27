"""Tasks: which there are, and which one a model and its data call for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from potstill.tasks.table import TASKS, build, of_several, plain_tasks

__all__ = ["TASKS", "answers_of", "build", "infer", "of_several", "plain_tasks"]

if TYPE_CHECKING:
    from potstill.contracts.answers import Answers
    from potstill.tasks.task import ModelTask


def infer(
    model_config: Any, columns: Iterable[str] = (), *, labels: Callable[[ModelTask], str | None] | None = None
) -> ModelTask:
    """The task that a model and the columns of the data call for.

    Args:
        model_config: A transformers configuration, or None.
        columns: Names of the data's columns, used where the model does not say.
        labels: Says of which kind the data's labels are (a name in `potstill.answers.ANSWERS`), given the task with one class for
            each row; asked where a model has no head yet.

    Raises:
        ModelError: The model was made for a task that Potstill does not know.
        RecipeError: Neither the model nor the columns say.
    """
    from potstill.tasks.inference import name_for

    return build(name_for(model_config, columns, labels))


def answers_of(model: Any) -> Answers:
    """What a model answers: by the name of its class and the problem type of its configuration; else one class.

    Args:
        model: Any module; a model of transformers says it.
    """
    from potstill.tasks.inference import answers_of_model

    return answers_of_model(model)
