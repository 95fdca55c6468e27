"""The same rows in the student's tokens and in the teacher's, in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from potstill.data.encoded import EncodedRows
from potstill.data.fingerprint import hash_of
from potstill.errors import DataError

PREFIX = "teacher_"
_SHARED = ("row_id", "labels")


class PairedRows(EncodedRows):
    """Rows of a student with the teacher's inputs added, under keys that begin with ``teacher_``.

    Args:
        student: The rows as the student takes them; they give labels, lengths and order.
        teacher: The same rows as the teacher takes them, in any order; it may hold more.

    Raises:
        DataError: The teacher's rows lack some of the student's.
    """

    def __init__(self, student: EncodedRows, teacher: EncodedRows) -> None:
        self.student, self.teacher = student, teacher
        self.row_ids, self.labels, self.lengths = student.row_ids, student.labels, student.lengths
        self.fingerprint = hash_of("paired", student.fingerprint, teacher.fingerprint)
        self.notes, self.groups, self.writer = student.notes, student.groups, student.writer
        order = np.argsort(teacher.row_ids, kind="stable")
        found = np.searchsorted(teacher.row_ids[order], student.row_ids)
        self.places = order[np.minimum(found, len(order) - 1)] if len(order) else np.zeros(0, np.int64)
        missing = len(student) if not len(order) else int((teacher.row_ids[self.places] != student.row_ids).sum())
        if missing:
            raise DataError(
                f"{missing} of the student's {len(student)} rows are not among the teacher's {len(teacher)}",
                "both encoded from the same splits",
                "encode the teacher's rows again",
            )

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        places = self.places[np.asarray(indices, np.int64)].tolist()
        both = zip(self.student.__getitems__(indices), self.teacher.__getitems__(places))
        return [own | {PREFIX + key: value for key, value in other.items() if key not in _SHARED} for own, other in both]


@dataclass(frozen=True)
class PairedCollator:
    """Makes one batch of `PairedRows`; rows without teacher inputs pass as they are.

    Attributes:
        student: The collator of the student's rows.
        teacher: The collator of the teacher's rows.
    """

    student: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    teacher: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.student(rows)
        if not any(key.startswith(PREFIX) for key in rows[0]):
            return batch
        theirs = [
            {key.removeprefix(PREFIX): value for key, value in row.items() if key.startswith(PREFIX)}
            | {key: row[key] for key in _SHARED}
            for row in rows
        ]
        return batch | {PREFIX + key: value for key, value in self.teacher(theirs).items() if key not in _SHARED}
