"""What models are called on the page."""

from __future__ import annotations

from collections.abc import Iterable

from potstill.report.words import Said, same, say

ORDER = ("teacher", "baseline", "student", "student-int8")


def model_name(name: str) -> Said:
    """A model's name in both languages; names that the page does not know stay as they are."""
    return say(name) if name in (*ORDER, "student-onnxruntime") else same(name)


def in_order(names: Iterable[str]) -> list[str]:
    """Teacher, baseline, student, student-int8, then the others as they came."""
    given = list(names)
    return [name for name in ORDER if name in given] + [name for name in given if name not in ORDER]
