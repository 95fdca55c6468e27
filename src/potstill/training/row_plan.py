"""The plan of the rows: easy ones first, or more of those that teach most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from potstill.errors import RecipeError
from potstill.ground.tables import nearest

CHOICES: Mapping[str, tuple[str, ...]] = {
    "order": ("random", "curriculum"),
    "difficulty": ("teacher", "length"),
    "focus": ("none", "teacher_uncertainty", "student_loss"),
    "by": ("weight", "sampling"),
}
SHARES = ("start", "pace", "strength")


@dataclass(frozen=True)
class RowPlan:
    """Which rows are learnt from, when, and how much.

    Args:
        order: "random", or "curriculum": the easiest rows first, more of them from step to step.
        difficulty: What is hard in a curriculum: rows that the teacher is unsure of ("teacher"), or long ones ("length").
        start: Share of the rows that a curriculum begins with.
        pace: Share of training after which a curriculum has reached all rows.
        focus: "none", "teacher_uncertainty" (rows on which the teacher hesitates) or "student_loss" (rows that the student
            still answers unlike the teacher, or unlike the label where there is no teacher).
        by: Whether the focus weighs the gradient of a row ("weight") or how often it is drawn ("sampling").
        strength: λ of the focus, from 0 (none) to 1: a row's weight is 1 − λ + λ · value / mean value.

    Raises:
        RecipeError: Another word, or a share outside its range.
    """

    order: str = "random"
    difficulty: str = "teacher"
    start: float = 0.3
    pace: float = 0.5
    focus: str = "none"
    by: str = "weight"
    strength: float = 1.0

    def __post_init__(self) -> None:
        for name, accepted in CHOICES.items():
            if getattr(self, name) not in accepted:
                raise RecipeError(f"rows.{name} is {getattr(self, name)!r}", ", ".join(accepted), "set it to one of them")
        for name in SHARES:
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not is_number or not 0 <= value <= 1 or (name != "strength" and value == 0):
                low = "0" if name == "strength" else "above 0"
                raise RecipeError(f"rows.{name} is {value!r}", f"a share from {low} to 1", f"for example {name}: 0.5")

    @property
    def is_default(self) -> bool:
        """Whether all rows are alike and in random order."""
        return self.order == "random" and self.focus == "none"

    @property
    def chooses_rows(self) -> bool:
        """Whether the order of rows differs from plain shuffling."""
        return self.order == "curriculum" or (self.focus != "none" and self.by == "sampling")

    @property
    def weighs_rows(self) -> bool:
        """Whether rows have weights in the gradient."""
        return self.focus != "none" and self.by == "weight"

    @property
    def asks_teacher(self) -> bool:
        """Whether every row's teacher answer is read before the first step."""
        return self.focus == "teacher_uncertainty" or (self.order == "curriculum" and self.difficulty == "teacher")

    def competence(self, progress: float) -> float:
        """Share of the rows, easiest first, that a curriculum draws from at this share of training.

        Formula: min(1, √(c₀² + (1 − c₀²) · progress / pace)).
        Source: the square-root competence of Platanios et al. 2019 (arXiv 1903.09848), eq. 7.
        """
        if self.order != "curriculum":
            return 1.0
        return min(1.0, math.sqrt(self.start**2 + (1 - self.start**2) * min(1.0, progress / self.pace)))


def read_row_plan(given: RowPlan | Mapping[str, Any] | None) -> RowPlan:
    """The plan of a mapping as a recipe writes it.

    Raises:
        RecipeError: A key or value that does not exist.

    Example:
        >>> read_row_plan({"focus": "student_loss"}).weighs_rows
        True
    """
    if isinstance(given, RowPlan):
        return given
    keys = tuple(each.name for each in fields(RowPlan))
    for key in given or {}:
        if key not in keys:
            guess = nearest(str(key), keys)
            raise RecipeError(
                f"rows has the key {key!r}, which does not exist",
                ", ".join(keys),
                f"write {guess!r}" if guess else "leave it out",
            )
    return RowPlan(**dict(given or {}))
