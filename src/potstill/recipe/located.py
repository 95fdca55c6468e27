"""A recipe whose files and folders are named by whole paths, so that it means the same in any working folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from potstill.recipe.model import Recipe

PATHS = (  # keys that may name a file or folder; * is any task
    *(f"teacher.{key}" for key in ("model", "processor")),
    *(f"data.{key}" for key in ("source", "validation", "test", "unlabelled")),
    *(f"tasks.*.teacher.{key}" for key in ("model", "processor")),
    *(f"tasks.*.data.{key}" for key in ("source", "validation", "test", "unlabelled")),
    *(f"teacher.others.*.{key}" for key in ("model", "processor")),
    "distill.options.route.*",
    "student.model",
)
FOLDERS = ("output", "store")  # keys whose folder may be still to be made


def located(recipe: Recipe) -> Recipe:
    """The recipe with whole paths where it names what is on this machine; hub ids, code and what is in memory stay as they are.

    Example:
        >>> from potstill.recipe import make_recipe
        >>> located(make_recipe({"teacher": "org/model", "data": ".", "output": "out"})).data.source == str(Path.cwd())
        True
    """
    plain = recipe.model_dump(round_trip=True)
    for path in PATHS:
        plain = _changed(plain, path.split("."))
    for key in FOLDERS:
        plain[key] = None if plain[key] is None else _whole(plain[key])
    return type(recipe).model_validate({**plain, **(recipe.model_extra or {})})


def _changed(value: Any, keys: list[str]) -> Any:
    """A structure with the path below some keys made whole; as it was where these are not in it."""
    if not keys:
        return _whole(value) if isinstance(value, str) and Path(value).expanduser().exists() else value
    key, *rest = keys
    if key == "*" and isinstance(value, list | tuple):
        return [_changed(each, rest) for each in value]
    if not isinstance(value, Mapping):
        return value
    chosen = value.keys() if key == "*" else {key}
    return {name: _changed(each, rest) if name in chosen else each for name, each in value.items()}


def _whole(path: str) -> str:
    return str(Path(path).expanduser().absolute())
