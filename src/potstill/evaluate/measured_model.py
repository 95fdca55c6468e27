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
        evaluate: How much is measured.
        seed: Of rows that are drawn.
        teachers: Names of the teachers' models, the first one first.
        sources: Names of the data.
        combination: How several teachers become one.
        tasks: Names of several tasks; empty for one.
        has_baseline: Whether a student was trained without distillation.
        has_ratio: Whether the student's size was asked for, and not a named student.
        ensemble: Whether all generations together are measured too.
        target: Name of the hardware that serves the student.
        recipe_file: Where the recipe lies.
    """

    evaluate: EvaluateRecipe
    seed: int
    teachers: tuple[str, ...]
    sources: tuple[str, ...]
    combination: Combination
    tasks: tuple[str, ...]
    has_baseline: bool
    has_ratio: bool
    ensemble: bool
    target: str
    recipe_file: Path = field(compare=False)


@dataclass(frozen=True)
class Bench:
    """The parties of a finished training and what was exported.

    Args:
        options: What the recipe says.
        rows: All rows.
        teacher: The first teacher with all rows in its tokens.
        teachers: All teachers.
        student: The trained student.
        baseline: The one trained by labels alone; None without.
        chain: Models between teacher and student.
        exports: Folder of the exported student.
        export_facts: What was exported and chosen.
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
        answers: What it answers on the test rows, served by the first runner.
        runners: Ways of serving it that are timed.
        parameters: Numbers in it.
        bytes: On disk, of the first runner's file.
        flops: Of one row of median length.
        formats: Format → bytes on disk.
        party: Whose rows it reads.
    """

    answers: Predictions
    runners: dict[str, Runner]
    parameters: int | None
    bytes: int
    flops: int | None
    formats: dict[str, int]
    party: Party


def reference(names: Collection[str]) -> str:
    """The model that students are compared with: the teacher, or all teachers together."""
    return TOGETHER if TOGETHER in names else "teacher"
