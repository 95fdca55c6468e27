"""Several teachers as a user writes them, and as a recipe keeps them: the first one, and the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.errors import PotstillError, RecipeError

OF_ALL = ("combine", "weights", "anchors")
LISTS = ("models", "others", "model")


def open_teachers(merged: dict[str, Any], faults: list[PotstillError]) -> dict[str, Any]:
    """`teachers: [a, b]` and `teacher: {models: [a, b], …}` in the form `teacher: {model: a, others: [{model: b}], …}`.

    The section's other settings (epochs, finetune …) hold for every teacher that has none of its own.

    Args:
        merged: A recipe as a mapping; it is not changed.
    """
    section = merged.get("teacher", {})
    if not isinstance(section, Mapping) or ("teachers" not in merged and "models" not in section):
        return merged
    rest = {key: value for key, value in merged.items() if key not in ("teacher", "teachers")}
    name, given = ("teachers", merged["teachers"]) if "teachers" in merged else ("teacher.models", section["models"])
    models = [{"model": one} if isinstance(one, str) else one for one in given] if isinstance(given, list) else []
    rivals = [key for key in LISTS if key in section and f"teacher.{key}" != name]
    if not models or not all(isinstance(one, Mapping) for one in models):
        faults.append(
            RecipeError(f"{name} is {given!r}", "a list of folders, hub ids or mappings with a model", f"change {name}")
        )
        models = [{"model": "?"}]
    elif rivals:
        faults.append(
            RecipeError(f"{name} and teacher.{rivals[0]} are both given", "one of them", f"leave out {name} or the other")
        )
    shared = {key: value for key, value in section.items() if key not in (*LISTS, *OF_ALL)}
    joint = {key: section[key] for key in OF_ALL if key in section}
    return {**rest, "teacher": {**shared, **joint, **models[0], "others": [{**shared, **one} for one in models[1:]]}}
