"""Checks of option values, which raise a RecipeError: what was given, what is accepted, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from potstill.errors import RecipeError

# A pair of taps: block numbers (1-based, negative from the end) or full tap names.
LayerPair: TypeAlias = tuple[int | str, int | str]
LAST_LAYER: tuple[LayerPair, ...] = ((-1, -1),)
HEAD_INPUT: tuple[LayerPair, ...] = (("head.in", "head.in"),)


def positive(name: str, value: float) -> float:
    """`value` as a float above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise RecipeError(f"{name} is {value!r}", "a finite number above 0", f"set {name} to such a number")
    return float(value)


def between(name: str, value: float, low: float, high: float) -> float:
    """`value` as a float from `low` to `high`, ends included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise RecipeError(f"{name} is {value!r}", f"a number from {low} to {high}", f"set {name} to such a number")
    return float(value)


def scales(name: str, value: Sequence[float], count: int) -> tuple[float, ...]:
    """`value` as one float above zero for each of `count` pairs of layers."""
    if not _is_list(value) or len(value) != count:
        raise RecipeError(
            f"{name} is {value!r}", f"a list of {count} numbers, one for each pair of layers", f"give {name} {count} numbers"
        )
    return tuple(positive(name, number) for number in value)


def one_of(name: str, value: str, accepted: Sequence[str]) -> str:
    """`value`, which must be among `accepted`."""
    if value not in accepted:
        raise RecipeError(f"{name} is {value!r}", ", ".join(accepted), f"set {name} to one of them")
    return value


def layer_pairs(layers: Sequence[LayerPair]) -> tuple[LayerPair, ...]:
    """`layers` as a tuple of (student, teacher) pairs of block numbers or tap names."""
    pairs = tuple(tuple(pair) if isinstance(pair, (list, tuple)) else (pair,) for pair in layers) if _is_list(layers) else ()
    right = pairs and all(len(pair) == 2 and all(isinstance(end, (int, str)) for end in pair) for pair in pairs)
    if not right:
        raise RecipeError(
            f"layers is {layers!r}",
            "a list of (student block, teacher block) pairs; blocks count from 1, or from the end as -1, -2; or tap names",
            "write for example layers: [[1, 3], [2, 6]]",
        )
    return tuple((pair[0], pair[1]) for pair in pairs)


def tap_name(role: str, layer: int | str) -> str:
    """The need name of a layer: block 3 of role "hidden" is "hidden:3"; a name stays as it is."""
    return layer if isinstance(layer, str) else f"{role}:{layer}"


def _is_list(layers: object) -> bool:
    return isinstance(layers, Sequence) and not isinstance(layers, str)
