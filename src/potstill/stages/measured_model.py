"""A model under measurement, and which one the others are compared with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from potstill.evaluate.quality import Predictions
from potstill.exports.runtimes import Runner

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


def name_of_served(kept: Mapping[str, Any]) -> str:
    """What a kept file is called beside the student itself: by its precision, or in fp32 by its runtime.

    Example:
        >>> [name_of_served({"precision": precision, "runtime": "openvino"}) for precision in ("int8", "fp32")]
        ['student-int8', 'student-openvino']
    """
    return f"student-{kept['runtime'] if kept['precision'] == 'fp32' else kept['precision']}"


def reference(names: Collection[str]) -> str:
    """The model that students are compared with: the teacher, or all teachers together."""
    return TOGETHER if TOGETHER in names else "teacher"
