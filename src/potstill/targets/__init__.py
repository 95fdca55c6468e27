"""Targets: the hardware that serves students, one file each."""

from __future__ import annotations

from potstill.contracts.target import TARGETS, Target
from potstill.ground.tables import resolve


def target_named(name: str) -> Target:
    """The target of that name.

    Raises:
        RecipeError: There is none.
    """
    found: Target = resolve(TARGETS, name, kind="target")
    return found
