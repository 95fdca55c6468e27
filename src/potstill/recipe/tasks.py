"""Several tasks as a user writes them, and as a recipe keeps them: each with all settings, the first also as the run's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from potstill.contracts.options import Options
from potstill.errors import PotstillError, RecipeError
from potstill.recipe.model import OneDataRecipe, OneTeacherRecipe

FIRST_KEYS = {"teacher": "model", "data": "source"}
OF_ONE_TASK = {"teacher": ("model", "others", "models"), "data": ("source", "validation", "test", "unlabelled")}
SHARED: dict[str, type[Options]] = {"teacher": OneTeacherRecipe, "data": OneDataRecipe}
FEWEST = 2
_NAME = re.compile(r"[\w-]+")


def with_sections(tasks: Any) -> Any:
    """Tasks in which a plain value for `teacher` or `data` stands in its section; what is no mapping stays as it is."""
    if not isinstance(tasks, Mapping):
        return tasks
    return {str(name): _sections(one) if isinstance(one, Mapping) else one for name, one in tasks.items()}


def open_tasks(merged: dict[str, Any], faults: list[PotstillError]) -> dict[str, Any]:
    """Every task with the settings that `teacher` and `data` have for all of them, and the first task's as the run's own.

    Args:
        merged: A recipe as a mapping; it is not changed.
    """
    tasks = merged.get("tasks")
    if tasks is None or tasks == {}:
        return {key: value for key, value in merged.items() if key != "tasks"}
    if not isinstance(tasks, Mapping) or not all(_is_task(one) for one in tasks.values()):
        accepted = "a mapping from the name of each task to its teacher and its data"
        faults.append(
            RecipeError(f"tasks is {tasks!r}", accepted, "for example tasks: {mood: {teacher: ./bert, data: a.csv}, …}")
        )
        return {**{key: value for key, value in merged.items() if key != "tasks"}, **_PLACEHOLDERS}
    faults += _wrong_names(list(tasks))
    given = {section: dict(merged.get(section, {})) for section in SHARED}
    faults += [fault for section in SHARED for fault in _wrong_shared(section, given[section], tasks)]
    full = {
        name: one | {section: {**_shared(section, given[section]), **one.get(section, {})} for section in SHARED}
        for name, one in tasks.items()
    }
    first = next(iter(full.values()))
    return {**merged, "tasks": full, **{section: {**given[section], **first[section]} for section in SHARED}}


_PLACEHOLDERS = {"teacher": {"model": "?"}, "data": {"source": "?"}}


def _sections(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: {FIRST_KEYS[key]: value} if key in FIRST_KEYS and not isinstance(value, Mapping) else value
        for key, value in one.items()
    }


def _is_task(one: Any) -> bool:
    return isinstance(one, Mapping) and all(isinstance(one.get(section, {}), Mapping) for section in SHARED)


def _shared(section: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a section of the recipe says for all tasks."""
    return {key: value for key, value in given.items() if key in SHARED[section].model_fields and key not in OF_ONE_TASK[section]}


def _wrong_names(names: list[str]) -> list[PotstillError]:
    found: list[PotstillError] = [
        RecipeError(
            f"a task is named {name!r}",
            "letters, digits, - and _: the name stands before a / in the names of classes, and in those of folders",
            "rename the task",
        )
        for name in names
        if not _NAME.fullmatch(name)
    ]
    folded = [name.casefold() for name in names]
    twice = [name for name in names if folded.count(name.casefold()) > 1]
    if twice:
        found.append(
            RecipeError(f"tasks are named {' and '.join(map(repr, twice))}", "names that differ in more than case", "rename one")
        )
    if len(names) < FEWEST:
        todo = "write its teacher and data as the recipe's own, without tasks"
        found.append(RecipeError(f"tasks has one task, {names[0]!r}", "two tasks or more", todo))
    return found


def _wrong_shared(section: str, given: Mapping[str, Any], tasks: Mapping[str, Any]) -> list[PotstillError]:
    """Settings of all tasks that belong into one of them, or have no effect because every task has its own."""
    first = next(iter(tasks.values())).get(section, {})
    found: list[PotstillError] = []
    for key, value in given.items():
        if key in OF_ONE_TASK[section]:
            if value and value != first.get(key):
                accepted = f"tasks.<name>.{section}: each task has its own"
                todo = f"leave out {section}.{key}, or tasks"
                found.append(RecipeError(f"{section}.{key} is given with tasks", accepted, todo))
        elif all(key in one.get(section, {}) for one in tasks.values()) and value != first[key]:
            accepted = f"tasks.<name>.{section}.{key}, which every task of this recipe sets"
            found.append(RecipeError(f"{section}.{key} has no effect", accepted, "set it there, or leave it out there"))
    return found
