"""What cannot teach one student of several tasks, refused before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from potstill.errors import NeedsError, RecipeError
from potstill.losses.per_task import check
from potstill.methods import catalogue as methods
from potstill.methods.contract import MethodOptions, ModelFacts, OnlineOptions, Phase
from potstill.planning.loss_table import read_losses
from potstill.recipe import Recipe
from potstill.tasks import plain_tasks
from potstill.training.terms import read_terms

ANY_MODEL = ModelFacts(1000, 8, 2, "text")  # deep enough for any block that a term may name
NEAREST = "kd"


def check_tasks(recipe: Recipe) -> None:
    """Refuse methods and losses that read more than the answers of each row's own teacher.

    Raises:
        NeedsError: Such a method or loss; names what works.
        RecipeError: A kind of task without one class for each row.
    """
    if not recipe.tasks:
        return
    if recipe.task not in ("auto", *plain_tasks()):
        raise RecipeError(
            f"tasks are given, and task is {recipe.task}",
            f"{' or '.join(plain_tasks())}, for all of them",
            "leave task out, or give each task a recipe of its own",
        )
    if recipe.distill.losses is not None:
        check_losses(recipe.distill.losses)
    elif (reason := why_not(recipe.distill.method, OnlineOptions(**recipe.distill.online.model_dump()))) is not None:
        raise NeedsError(
            f"method {recipe.distill.method!r} does not work for several tasks: {reason}",
            f"methods on the answers of each row's own teacher: {', '.join(working())}",
            f"set distill.method: {NEAREST}, or leave it out",
        )


def check_losses(losses: list[Any] | dict[str, Any]) -> None:
    """Refuse terms of the user's own that cannot be computed task by task.

    Raises:
        NeedsError: The first of them.
    """
    for term in read_terms([term.as_loss() for term in read_losses(losses, ANY_MODEL, ANY_MODEL)]):
        check(term.loss)


def working() -> tuple[str, ...]:
    """The methods that work for several tasks, sorted."""
    return tuple(name for name in methods.names() if why_not(name) is None)


def why_not(name: str, online: OnlineOptions | None = None) -> str | None:
    """Why a method does not work for several tasks; None where it does.

    Args:
        name: Of the method.
        online: The user's wishes, which say what `self` stands for.

    Raises:
        RecipeError: No such method.
    """
    try:
        return _reason(methods.example_stages(name, MethodOptions(has_taps=False, online=online or OnlineOptions())))
    except NeedsError:
        return "it reads what is inside a teacher, and each task has a teacher of its own"


def _reason(stages: Sequence[Phase]) -> str | None:
    if any(stage.learner != "student" for stage in stages):
        return "it trains further models, and each task has a teacher of its own"
    if any(stage.teacher != "teacher" for stage in stages):
        return "it follows one teacher's way, and each task has a teacher of its own"
    if any(stage.settings.get("companions") for stage in stages):
        return "it learns from something else than each row's own teacher"
    for term in read_terms([term.as_loss() for stage in stages for term in stage.terms]):
        try:
            check(term.loss)
        except NeedsError as error:
            return str(error.given)
    return None
