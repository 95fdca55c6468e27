"""Stage `score`: importance of the teacher's parts, which runs with students of several sizes share in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.students.importance import FILE_NAME, Importance, measure
from potstill.students.make import calibration_batches


@dataclass(frozen=True)
class ScoreOptions:
    """What scoring reads of a recipe.

    Args:
        is_needed: Whether scores are shared and a student of another shape is cut; else cutting measures what it needs itself.
    """

    seed: int
    is_needed: bool = field(compare=False)


def score(given: Given, options: ScoreOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Measure the importance of heads, neurons, hidden units, layers and channels on training rows."""
    measure(given.teacher.model, calibration_batches(given.teacher, options.seed), seed=options.seed).save(folder)
    return []


def open_scores(folder: Path, given: Given) -> Importance | None:
    """The scores; None where the stage was not needed."""
    return Importance.load(folder) if (folder / FILE_NAME).is_file() else None
