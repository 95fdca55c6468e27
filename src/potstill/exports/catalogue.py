"""Formats and ways by name, and the ways that a recipe's `quantize.mode` tries on a target."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from potstill.contracts.format import FORMATS, Format
from potstill.contracts.target import Target
from potstill.contracts.way import AUTO, WAYS, Way, modes
from potstill.errors import MissingExtra, RecipeError
from potstill.ground.tables import nearest, resolve

format_named: Callable[[str], Format] = partial(resolve, FORMATS, kind="format")
"""The format of that name; `RecipeError` where there is none."""
way_named: Callable[[str], Way] = partial(resolve, WAYS, kind="way of quantizing")
"""The same for ways."""


def ways_of(mode: str, target: Target) -> tuple[Way, ...]:
    """The ways that a mode of the recipe tries, in order; one whose packages are missing only where it is asked for by name.

    Args:
        mode: ``"auto"`` (all that the target tries by itself), ``"none"`` (fp32), ``"int8"``, a group, or one way.

    Raises:
        RecipeError: No such mode, or none that the target can run.
    """
    if mode not in modes():
        guess = nearest(mode, modes())
        accepted = ", ".join(dict.fromkeys(name.partition("-")[0] for name in modes()))
        raise RecipeError(f"quantization {mode!r} does not exist", accepted, f"did you mean {guess!r}?" if guess else "")
    known = [way_named(name) for name in WAYS if name in (*target.ways, *target.further_ways)]
    asked = [way for way in known if _is_asked(way, mode, target)]
    if not asked:
        accepted = ", ".join(one for one in modes() if any(_is_asked(way, one, target) for way in known))
        raise RecipeError(
            f"quantize.mode is {mode!r} and target is {target.name!r}, which does not run that",
            accepted,
            f"set quantize.mode: {AUTO}, or another target",
        )
    return tuple(way for way in asked if way.is_installed or way.is_named(mode))


def check_ways(mode: str, target: Target) -> None:
    """Refuse a mode that the target cannot run, or one whose packages are missing.

    Raises:
        RecipeError: See `ways_of`.
        MissingExtra: A way that is asked for by name needs a package that is not installed.
    """
    missing = next((way for way in ways_of(mode, target) if not way.is_installed), None)
    if missing is not None:
        raise MissingExtra(f"quantize: {mode}", missing.extra)


def _is_asked(way: Way, mode: str, target: Target) -> bool:
    if mode == AUTO:
        return way.name in target.ways
    return way.is_named(mode) or (way.precision.is_integer and way.precision.name == mode)
