"""Computing in 32 bits (64 where given), whatever the models and autocast do, and log-probabilities that stay finite."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import RecipeError

P = ParamSpec("P")
R = TypeVar("R")

HALF_TYPES = (torch.float16, torch.bfloat16)
# What stands for a logit of −inf: exp of it is zero at every useful temperature, and its products stay finite.
FLOOR = -1e4


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` with autocast off and its 16-bit tensor arguments raised to float32."""

    def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        raised = {name: raise_precision(value) for name, value in kwargs.items()}
        return function(*(raise_precision(value) for value in args), **raised)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), "cpu")
        if torch.is_autocast_enabled(device):
            with torch.autocast(device_type=device, enabled=False):
                return call(args, kwargs)
        return call(args, kwargs)

    return wrapper


def raise_precision(value: Any) -> Any:
    """A 16-bit tensor, or those in a list or tuple, as float32; everything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in HALF_TYPES else value
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
        return type(value)(raise_precision(item) for item in value)
    return value


def finite(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits with −inf as `FLOOR` and, where `mask` [..] (without the class axis) is false, as zero.

    NaN and +inf stay, so that the trainer sees them and stops.
    """
    logits = logits.masked_fill(logits == float("-inf"), FLOOR)
    return logits if mask is None else logits.masked_fill(~mask.bool().unsqueeze(-1), 0.0)


def log_probabilities(logits: Tensor, temperature: float | Tensor, mask: Tensor | None = None) -> Tensor:
    """log softmax(logits / τ) over the last axis, finite for logits of −inf and for masked units.

    Raises:
        RecipeError: τ is a number that is not above 0.
    """
    if not isinstance(temperature, Tensor) and not 0 < temperature < float("inf"):
        raise RecipeError(f"temperature is {temperature!r}", "a finite number above 0", "set temperature to such a number")
    return F.log_softmax(finite(raise_precision(logits), mask) / temperature, dim=-1)
