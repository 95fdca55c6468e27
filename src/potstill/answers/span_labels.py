"""Answers that are spans of a context, in any of the usual forms."""

# N rows

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from potstill.answers.tag_labels import as_lists
from potstill.data.arrow import table_of
from potstill.errors import DataError

NAMES = ("start", "end")


class SpanLabels:
    """Answers as ``{"text": […], "answer_start": […]}``, a list of ``{"text", "answer_start"}``, or texts that the context holds.

    Labels become [N] lists of ``{"text", "answer_start"}``; an empty list means that the context has no answer.
    """

    is_optional = False

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[tuple[tuple[str, int], ...] | None]:
        """The answers of each row, each a text and the character where it begins.

        Raises:
            DataError: An answer that does not stand in its context.
        """
        answers, contexts = (table_of(dataset, [roles[role]]).column(0).to_pylist() for role in ("label", "context"))
        return [
            None if answer is None else tuple(_checked(text, start, context or "", split, row) for text, start in _pairs(answer))
            for row, (answer, context) in enumerate(zip(answers, contexts), 1)
        ]

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """``start`` and ``end``, whatever the teacher calls them."""
        if not any(raw):
            raise DataError(
                f"no training row has an answer (column {roles['label']!r})",
                'answers such as {"text": ["…"], "answer_start": [0]}',
                "name another column: data.columns: {answers: …}",
            )
        return NAMES, SpanMap()

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Any = None) -> SpanMap:
        """Takes answers as they are."""
        return SpanMap()

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """A mark that nothing is known, which no answer has."""
        return as_lists([[{"text": "", "answer_start": -1}]] * count)

    def strata(self, values: np.ndarray) -> np.ndarray:
        """Rows with and without an answer."""
        return np.array([int(bool(row)) for row in values], np.int64)

    def spread(self, content: pa.Table, values: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """Rows as they are."""
        return content, values


class SpanMap:
    """Takes answers to lists of ``{"text", "answer_start"}``."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def positions(self, raw: Sequence[Any], split: str) -> np.ndarray:
        """[N] lists."""
        return as_lists([{"text": text, "answer_start": start} for text, start in row or ()] for row in raw)


def _pairs(answer: Any) -> list[tuple[str, int | None]]:
    if isinstance(answer, str):
        return [(answer, None)] if answer else []
    if isinstance(answer, Mapping):
        texts, starts = answer.get("text"), answer.get("answer_start")
        if isinstance(texts, str):
            return [(texts, starts)] if texts else []
        return list(zip(texts or [], starts if isinstance(starts, list) else [None] * len(texts or [])))
    return [pair for part in answer for pair in _pairs(part)]


def _checked(text: str, start: int | None, context: str, split: str, row: int) -> tuple[str, int]:
    found = context.find(text) if start is None else start
    if found >= 0 and context[found : found + len(text)] == text:
        return text, int(found)
    place = "is not in the context" if start is None else f"does not stand at character {start} of the context"
    raise DataError(
        f"the answer {text[:60]!r} in row {row} of the {split} split {place}",
        "answers that are copied from the context, with the character where they begin",
        f"correct row {row}, or leave answer_start out: the first place is taken",
    )
