"""Plug-in tables: a literal dict of name → "module:attribute", resolved when asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from potstill.errors import RecipeError

Entry = TypeVar("Entry")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is closest in spelling to `name`, or None where none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def resolve(table: Mapping[str, str], name: str, *, kind: str) -> Any:
    """Import and return the object that `table` names.

    Args:
        table: Name → ``"package.module:attribute"``.
        name: The name asked for.
        kind: What the table lists, for the error message ("loss", "task", …).

    Raises:
        RecipeError: No such name; the message suggests the nearest one.
    """
    return at(look_up(table, name, kind=kind))


def at(place: str) -> Any:
    """What is at ``"package.module:attribute"``, for a room that names plug-ins and may not import them."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def look_up(table: Mapping[str, Entry], name: str, *, kind: str) -> Entry:
    """The entry of a table; arguments and errors as in `resolve`."""
    if name not in table:
        guess = nearest(name, table)
        raise RecipeError(
            f"{kind} {name!r} does not exist",
            ", ".join(sorted(table)),
            f"did you mean {guess!r}?" if guess else "",
        )
    return table[name]
