"""A commented recipe to start from: the keys that are often changed, with meanings and defaults out of the recipe model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from potstill import modalities
from potstill.contracts.task import TASKS, TOKEN_TASKS
from potstill.errors import RecipeError
from potstill.ground.tables import nearest
from potstill.recipe import Recipe, make_recipe
from potstill.recipe.plugins import SECTIONS

TEACHER, DATA = "path/to/teacher", "path/to/data.csv"
KEYS: Mapping[str, tuple[str, ...]] = {
    "teacher": ("model", "finetune", "epochs", "learning_rate", "batch_size"),
    "data": ("source", "columns", "validation", "test", "unlabelled", "max_rows"),
    "student": ("ratio", "model", "architecture"),
    "distill": ("method", "epochs", "learning_rate", "batch_size", "temperature", "alpha"),
    "quantize": ("mode", "max_drop"),
}
"""Section → its keys that are often changed, for rows that have answers."""
OF_TOKENS = {"data": ("augment", "max_tokens", "long_texts"), "student": ("vocabulary", "embeddings")}
"""More keys where rows are tokens of a vocabulary."""
OF_FILES = {"data": ("skip_corrupt",)}
"""More keys where they are not."""
KEYS_OF_LANGUAGE: Mapping[str, tuple[str, ...]] = {
    "teacher": ("model",),
    "data": ("source", "validation", "test"),
    "student": ("model",),
    "distill": ("method", "epochs", "learning_rate", "batch_size"),
}
"""The same as `KEYS` for tasks of tokens."""
LAST = ("target", "baseline", "precision", "seed", "output", "store")


def commented_recipe(task: str, *, teacher: str | None = None, data: str | None = None, output: str | None = None) -> str:
    """A recipe for a task as YAML text; it is one that `make_recipe` reads.

    Args:
        task: A name in `TASKS` or `TOKEN_TASKS`.
        teacher: Folder or hub id; None leaves a place to fill in.
        data: File, folder or hub id; the same.
        output: Folder that receives everything; None takes the default.

    Raises:
        RecipeError: No such task.
    """
    known = (*TASKS, *TOKEN_TASKS)
    if task not in known:
        guess = nearest(task, known)
        raise RecipeError(
            f"there is no task {task!r}", ", ".join(known), f"did you mean {guess!r}?" if guess else "name one of them"
        )
    given = {"task": task, "teacher": teacher or TEACHER, "data": data or DATA, **({"output": output} if output else {})}
    recipe = make_recipe(given)
    open_keys = [key for key, value in (("teacher.model", teacher), ("data.source", data)) if value is None]
    to_do = f" Fill in {' and '.join(open_keys)}." if open_keys else ""
    lines = [
        f"# A recipe for {task}.{to_do}",
        "# Then potstill plan FILE shows what would be built, and potstill distill FILE builds it.",
        "# Every other value is the default; a key that is left out takes its default too.",
        "# potstill schema lists all keys.",
        "",
        *_key(Recipe, recipe, "task"),
        "",
    ]
    for section, keys in _sections(task).items():
        part = getattr(recipe, section)
        lines += [f"{section}:"]
        for key in keys:
            lines += _key(type(part), part, key, indent="  ")
        lines += [""]
    for key in LAST:
        lines += _key(Recipe, recipe, key)
    return "\n".join(lines) + "\n"


def _sections(task: str) -> dict[str, tuple[str, ...]]:
    """Section → keys of the recipe for a task."""
    if task in TOKEN_TASKS:
        own = {name: tuple(type(part).model_fields) for name, part in _own_sections(task)}
        return {**KEYS_OF_LANGUAGE, **own}
    modality = modalities.build(TASKS[task].modality)
    more = OF_TOKENS if modality.has_tokens else OF_FILES
    return {section: (*keys, *more.get(section, ())) for section, keys in KEYS.items()}


def _own_sections(task: str) -> Iterator[tuple[str, BaseModel]]:
    recipe = make_recipe({"task": task, "teacher": TEACHER, "data": DATA})
    return ((name, getattr(recipe, name)) for name in SECTIONS)


def _key(model: type[BaseModel], values: BaseModel, key: str, indent: str = "") -> list[str]:
    """A key with its value, after a comment that says what it means."""
    meaning = " ".join((model.model_fields[key].description or "").split())
    value = getattr(values, key)
    if value is None and key in (budget := getattr(values, "budget", {})):
        value = budget[key]
    return [f"{indent}# {meaning}", f"{indent}{key}: {_written(value)}"]


def _written(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, str):
        return value if yaml.safe_load(value) == value and ": " not in value and " #" not in value else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)
