"""What is measured in a run: its parties and exports, each model, and the one that the others are compared with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potstill.contracts.answers import Predictions
from potstill.contracts.party import Party
from potstill.contracts.runner import Runner
from potstill.contracts.target import Target
from potstill.data.run_rows import Rows
from potstill.knowledge.teachers import Combination
from potstill.models.party import Student, Teacher
from potstill.recipe.model import EvaluateRecipe
from potstill.targets import target_named

TOGETHER = "ensemble"


@dataclass(frozen=True)
class MeasureOptions:
    """What measuring reads of a recipe.

    Args:
        teachers: Their names, as the user wrote them.
        sources: The names of the data, likewise.
    """

    evaluate: EvaluateRecipe
    seed: int
    teachers: tuple[str, ...] = field(compare=False)
    sources: tuple[str, ...] = field(compare=False)
    combination: Combination
    tasks: tuple[str, ...]
    has_baseline: bool
    has_ratio: bool
    ensemble: bool
    target: str
    max_tokens: int | None
    recipe_file: Path = field(compare=False)


@dataclass(frozen=True)
class Bench:
    """The parties of a finished training and what was exported.

    Args:
        learned_shares: Weights of several teachers that were learned; None where they were not.
    """

    options: MeasureOptions
    rows: Rows
    teacher: Teacher
    teachers: tuple[Teacher, ...]
    student: Student
    baseline: Student | None
    chain: Mapping[str, Student]
    exports: Path
    export_facts: Mapping[str, Any]
    learned_shares: list[float] | None = None

    @property
    def target(self) -> Target:
        """The hardware that serves the student."""
        return target_named(self.options.target)


@dataclass
class Subject:
    """How a model answers, and everything that serves it.

    Args:
        as_served: Of the teacher, what serves it in the form that was chosen for the student, to time it.
        not_as_served: Why there is none though the student's form is another than those in `runners`.
    """

    answers: Predictions
    runners: dict[str, Runner]
    parameters: int | None
    bytes: int
    flops: int | None
    formats: dict[str, int]
    party: Party
    as_served: Runner | None = None
    not_as_served: str | None = None


def reference(names: Collection[str]) -> str:
    """The model that students are compared with: the teacher, or all teachers together."""
    return TOGETHER if TOGETHER in names else "teacher"
