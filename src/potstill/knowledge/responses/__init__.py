"""Kinds of response: what of a teacher's answers a source gives and a cache keeps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.contracts.response import Response
from potstill.errors import RecipeError
from potstill.ground.tables import nearest, resolve

RESPONSES: dict[str, str] = {
    "dense": "potstill.knowledge.responses.dense:DenseLogits",
    "head_and_tail": "potstill.knowledge.responses.head_and_tail:HeadAndTail",
    "samples": "potstill.knowledge.responses.samples:Samples",
}


@dataclass(frozen=True)
class Kept:
    """A kind of response and the options with which it is kept."""

    kind: type[Response]
    options: Mapping[str, Any]

    def of(self, logits: Tensor, *, seed: int = 0) -> Response:
        """What is kept of every logit."""
        return self.kind.of(logits, seed=seed, **self.options)

    def example(self, num_classes: int) -> dict[str, np.ndarray]:
        """What is packed of one answer over `num_classes` classes: arrays [1, …], and numbers [] that are those of all rows."""
        return self.of(torch.zeros(1, num_classes)).pack()

    @property
    def scheme(self) -> str | dict[str, Any]:
        """The name alone, or with all options."""
        return {"name": self.kind.name, **self.options} if self.options else self.kind.name


def read_keep(keep: str | Mapping[str, Any]) -> Kept:
    """A kind and its options, out of its name or a mapping {name, …}.

    Raises:
        RecipeError: No such kind or option; names the nearest.

    Example:
        >>> read_keep({"name": "head_and_tail", "entries": 8}).scheme
        {'name': 'head_and_tail', 'entries': 8, 'temperature': 1.0}
    """
    given = {"name": keep} if isinstance(keep, str) else dict(keep)
    kind: type[Response] = resolve(RESPONSES, str(given.pop("name", "")), kind="response")
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
    return Kept(kind, options | given)
