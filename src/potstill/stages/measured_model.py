"""A model under measurement, and which one the others are compared with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from potstill.contracts.runner import Runner
from potstill.evaluate.quality import Predictions

TOGETHER = "ensemble"


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
        sees: "teacher" or "student": whose tokens it reads.
    """

    answers: Predictions
    runners: dict[str, Runner]
    parameters: int | None
    bytes: int
    flops: int | None
    formats: dict[str, int]
    sees: str


def reference(names: Collection[str]) -> str:
    """The model that students are compared with: the teacher, or all teachers together."""
    return TOGETHER if TOGETHER in names else "teacher"
