"""Kinds of response: what of a teacher's answers a source gives and a cache keeps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from potstill.contracts.response import Response
from potstill.errors import RecipeError
from potstill.ground.tables import nearest, resolve

RESPONSES: dict[str, str] = {
    "dense": "potstill.knowledge.responses.dense:DenseLogits",
    "head_and_tail": "potstill.knowledge.responses.head_and_tail:HeadAndTail",
    "samples": "potstill.knowledge.responses.samples:Samples",
}


def find(name: str) -> type[Response]:
    """The kind of that name.

    Raises:
        RecipeError: No such kind; names the nearest.
    """
    kind: type[Response] = resolve(RESPONSES, name, kind="response")
    return kind


def read_keep(keep: str | Mapping[str, Any]) -> tuple[type[Response], dict[str, Any]]:
    """A kind and all its options, out of its name or a mapping {name, …}.

    Raises:
        RecipeError: No such kind or option; names the nearest.

    Example:
        >>> read_keep({"name": "head_and_tail", "entries": 8})[1]
        {'entries': 8, 'temperature': 1.0}
    """
    given = {"name": keep} if isinstance(keep, str) else dict(keep)
    kind = find(str(given.pop("name", "")))
    parameters = inspect.signature(kind.of).parameters.values()
    options = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY and each.name != "seed"}
    for option in given:
        if option not in options:
            guess = nearest(option, options)
            raise RecipeError(
                f"the response {kind.name!r} has no option {option!r}",
                ", ".join(options) or "no options",
                f"did you mean {guess!r}?" if guess else f"leave {option!r} out",
            )
    return kind, options | given
