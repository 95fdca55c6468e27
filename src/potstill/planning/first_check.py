"""What a recipe names (method, losses, models, data), checked in an instant: no library of models is imported for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from potstill.contracts.task import TASKS
from potstill.data.places import check_place
from potstill.errors import ModelError, PotstillError, RecipeError, raise_faults
from potstill.ground.code import brought
from potstill.ground.tables import at, look_up, nearest
from potstill.models.checkpoint import check_folder
from potstill.recipe import Recipe
from potstill.recipe.model import ARCHITECTURES, IN_MEMORY, OneDataRecipe, OneTeacherRecipe

OF_TOKENS = "potstill.methods.catalogue:OF_TOKENS"
METHODS, LOSSES = "potstill.methods.catalogue:METHODS", "potstill.losses.catalogue:LOSSES"
GROUPS = {"method": "potstill.methods", "loss": "potstill.losses"}  # entry points of packages that bring more
DATA_KEYS = ("source", "validation", "test", "unlabelled")
CLOSE = 0.7  # similarity of a name to that of an architecture, above which it is no hub id


def check_names(recipe: Recipe, *, allows_memory: bool = False) -> None:
    """Make sure that method and losses exist, and that what is named as a path on this machine is there.

    Hub ids pass, and code that is named as ``package.module:name``.

    Args:
        allows_memory: Whether a teacher or data may stand for what the caller has in memory.

    Raises:
        PotstillError: One fault.
        Faults: Several faults, all of them.
    """
    faults = [fault for check in _checks(recipe) if (fault := _fault_of(check)) is not None]
    raise_faults(faults if allows_memory else [*_in_memory(recipe), *faults])


def _checks(recipe: Recipe) -> Iterator[Callable[[], Any]]:
    distill = recipe.distill
    if recipe.task in TASKS or distill.method not in at(OF_TOKENS):
        yield lambda: _check_name(METHODS, distill.method, "method")
    for name in _names_of_losses(distill.losses):
        yield lambda name=name: _check_name(LOSSES, name, "loss")  # type: ignore[misc]
    of_tasks = tuple(recipe.tasks.values())
    teachers: tuple[OneTeacherRecipe, ...] = tuple(task.teacher for task in of_tasks) or recipe.teacher.all
    for teacher in teachers:
        yield lambda name=teacher.model: _check_model(name, "teacher")  # type: ignore[misc]
    yield lambda: check_student(recipe.student.model)
    places: tuple[OneDataRecipe, ...] = tuple(task.data for task in of_tasks) or (recipe.data,)
    for source in dict.fromkeys(getattr(place, key) for place in places for key in DATA_KEYS):
        yield lambda source=source: _check_data(source)  # type: ignore[misc]


def _in_memory(recipe: Recipe) -> Iterator[PotstillError]:
    """What was in memory when the recipe was written, and has no name to find it by."""
    for key, value, flag in (("teacher.model", recipe.teacher.model, "--teacher"), ("data.source", recipe.data.source, "--data")):
        if value == IN_MEMORY:
            accepted = "a file, a folder or a hub id"
            todo = f"give {flag}, or run the Python program again that made this recipe"
            yield RecipeError(f"{key} was in memory when this recipe was written", accepted, todo)


def _check_name(table: str, name: str, kind: str) -> None:
    known = at(table)
    if name != "auto" and ":" not in name and name not in known:
        look_up({**known, **brought(GROUPS[kind])}, name, kind=kind)


def _names_of_losses(losses: Any) -> Iterator[str]:
    """The names in a list of losses; a table by place has types of its own."""
    for entry in losses if isinstance(losses, list) else ():
        name = entry.get("name") if isinstance(entry, dict) else entry
        if isinstance(name, str):
            yield name


def _check_model(name: str, role: str) -> None:
    if not _is_elsewhere(name):
        check_folder(name, role)


def check_student(name: str | None) -> None:
    """Refuse the name of a student that is a mistyped architecture, or no model folder.

    Raises:
        RecipeError: It is close to the name of an architecture.
        ModelError: See `check_folder`.
    """
    if name is None or _is_elsewhere(name):
        return
    meant = None if os.path.exists(os.path.expanduser(name)) or os.sep in name else nearest(name, ARCHITECTURES.names(), CLOSE)
    if meant is not None:
        accepted = f"{', '.join(ARCHITECTURES.names())}, or a folder or hub id of a model"
        raise RecipeError(f"the student {name} is no kind of network that is known", accepted, f"did you mean {meant}?")
    check_folder(name, "student")


def _check_data(source: str | None) -> None:
    if source is not None and not _is_elsewhere(source):
        check_place(source)


def _is_elsewhere(name: str) -> bool:
    """Whether a name stands for something in memory, or for code."""
    return name.startswith("<") or (":" in name and not os.path.exists(name))


def _fault_of(check: Callable[[], Any]) -> PotstillError | None:
    try:
        check()
    except PotstillError as fault:
        return fault
    except OSError as err:
        return ModelError(
            f"{err.filename or 'a path of the recipe'} cannot be read: {err.strerror}", todo="check its permissions"
        )
    return None
