"""Targets: the hardware that serves students, one file each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from potstill.contracts.target import TARGETS, Target
from potstill.ground.tables import resolve

target_named: Callable[[str], Target] = partial(resolve, TARGETS, kind="target")
"""The target of that name; `RecipeError` where there is none."""
