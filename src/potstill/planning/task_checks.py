"""What cannot teach one student of several tasks, refused before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from potstill.errors import NeedsError, RecipeError
from potstill.losses.per_task import check
from potstill.methods import catalogue as methods
from potstill.methods.contract import MethodOptions, Phase
from potstill.planning.loss_table import terms_on_any_model
from potstill.recipe import Recipe
from potstill.tasks import TASKS, plain_tasks
from potstill.training.terms import read_terms


def check_tasks(recipe: Recipe) -> None:
    """Refuse methods and losses that read more than the answers of each row's own teacher.

    Raises:
        NeedsError: Such a method or loss; names what works.
        RecipeError: A kind of task without one class for each row.
    """
    if not recipe.tasks:
        return
    fitting = plain_tasks()
    if recipe.task in TASKS and recipe.task not in fitting:
        raise RecipeError(
            f"tasks are given, and task is {recipe.task}",
            f"{' or '.join(fitting)}, for all of them",
            "leave task out, or give each task a recipe of its own",
        )
    if recipe.distill.losses is not None:
        check_losses(recipe.distill.losses)
    elif (reason := why_not(recipe.distill.method, recipe.distill.options)) is not None:
        raise NeedsError(
            f"method {recipe.distill.method!r} does not work for several tasks: {reason}",
            f"methods on the answers of each row's own teacher: {', '.join(working())}",
            f"set distill.method: {methods.DEFAULT}, or leave it out",
        )


def check_losses(losses: list[Any] | dict[str, Any]) -> None:
    """Refuse terms of the user's own that cannot be computed task by task.

    Raises:
        NeedsError: The first of them.
    """
    for term in terms_on_any_model(losses):
        check(term.loss)


def working() -> tuple[str, ...]:
    """The methods that work for several tasks, sorted."""
    return tuple(name for name in methods.names() if why_not(name) is None)


def why_not(name: str, own: Mapping[str, Any] | None = None) -> str | None:
    """Why a method does not work for several tasks; None where it does.

    Args:
        own: The method's own options, which say what `self` stands for.

    Raises:
        RecipeError: No such method.
    """
    try:
        return _reason(methods.example_phases(name, MethodOptions(has_taps=False, own=own or {})))
    except NeedsError:
        return "it reads inner values of a teacher, and each task has a teacher of its own"


def _reason(phases: Sequence[Phase]) -> str | None:
    if any(phase.learner != "student" for phase in phases):
        return "it trains further models, and each task has a teacher of its own"
    if any(phase.teacher != "teacher" for phase in phases):
        return "it follows the states of one teacher, and each task has a teacher of its own"
    if any(phase.settings.get("companions") for phase in phases):
        return "it learns from something else than each row's own teacher"
    for term in read_terms([loss for phase in phases for loss in phase.losses()]):
        try:
            check(term.loss)
        except NeedsError as error:
            return str(error.given)
    return None
