"""What a model's forward takes of a batch, and the logits in what it returns."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from potstill.answers.units import head_output
from potstill.errors import ModelError

MAIN_INPUTS = ("pixel_values", "input_ids")


class InputNames:
    """The names of a forward's arguments, looked at once.

    A user's module may call its one input anything (``x``): where it takes none of a batch's names, the batch's
    main input (`MAIN_INPUTS`) goes to its first argument.

    Args:
        model: Any module.

    Example:
        >>> InputNames(nn.Linear(2, 1)).take({"pixel_values": 5, "row_id": 1})
        {'input': 5}
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = list(inspect.signature(model.forward).parameters.values())
        self.takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        self.names = tuple(parameter.name for parameter in parameters if parameter.kind in by_name)

    def take(self, values: Mapping[str, Any], *, leave: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The entries of `values` that the forward takes, under its own names.

        Args:
            values: A batch, without what belongs to others.
            leave: Names that are never taken.
        """
        free = {name: value for name, value in values.items() if name not in leave}
        if self.takes_any:
            return free
        taken = {name: value for name, value in free.items() if name in self.names}
        main = next((name for name in MAIN_INPUTS if name in free), None)
        if taken or main is None or not self.names:
            return taken
        return {self.names[0]: free[main]}


def logits_of(outputs: Any) -> Tensor:
    """Logits out of a tensor, a tuple that begins with them, a mapping or an output with ``logits``.

    Raises:
        ModelError: The forward returned nothing of the kind.
    """
    value: Any = None
    with contextlib.suppress(AttributeError, KeyError, IndexError):
        value = head_output(outputs)
    if isinstance(value, Tensor):
        return value
    raise ModelError(
        f"the model's forward returned {type(outputs).__name__} without logits",
        "a tensor, a tuple whose first entry is the logits, or an output with a field logits",
        "return the logits from forward, or load the model with its task's head (AutoModelForSequenceClassification)",
    )
