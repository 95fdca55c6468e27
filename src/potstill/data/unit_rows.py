"""Encoded rows whose answer has several units: the words of a sentence, or the places where an answer may stand."""

# N rows, U units of a row, T tokens of a row

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from potstill.data.encoded import EncodedText
from potstill.data.row_files import TextWriter

ABSENT, PADDING = -1, -2
"""Positions of a unit that the tokenizer dropped or cut off, and of a place that only pads a batch."""


class EncodedUnits(EncodedText):
    """Texts as token ids, and for each unit of the row's answer where it stands among them.

    A unit is a word. Student and teacher cut words into different tokens, but they have the same words, so what they say is
    compared unit by unit. With `ends`, units are places where a span may begin or end, and labels are a first and a last unit.

    Attributes:
        num_units: Units of each row [N] int64.
        has_ends: Whether the last token of each unit is kept beside the first.
    """

    kind = "units"

    def _map(self, manifest: dict[str, Any]) -> None:
        super()._map(manifest)
        self.has_ends = bool(manifest["ends"])
        self.unit_offsets = self._array("unit_offsets", np.int64, (self.rows + 1,))
        total = int(self.unit_offsets[-1])
        self.num_units = np.diff(self.unit_offsets)
        self.unit_positions = self._array("unit_positions", np.int32, (total,))
        self.unit_ends = self._array("unit_ends", np.int32, (total,)) if self.has_ends else None
        self.unit_labels = self._array("unit_labels", np.int64, (2 * self.rows if self.has_ends else total,))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = super().__getitems__(indices)
        for index, row in zip(indices, rows):
            index = self.rows + index if index < 0 else index
            start, end = self.unit_offsets[index], self.unit_offsets[index + 1]
            row["unit_positions"] = self.unit_positions[start:end]
            if self.unit_ends is not None:
                row["unit_ends"] = self.unit_ends[start:end]
                row["labels"] = self.unit_labels[2 * index : 2 * index + 2]
            else:
                row["labels"] = self.unit_labels[start:end]
        return rows

    def writer(self, folder: Path) -> UnitWriter:
        """A writer of rows with the same inputs."""
        return UnitWriter(folder, token_types=self.has_types, ends=self.has_ends, groups=self.groups is not None)


class UnitWriter(TextWriter):
    """Writes token ids and the units of each row."""

    kind = "units"

    def __init__(self, folder: Path, *, token_types: bool, ends: bool, groups: bool = False) -> None:
        super().__init__(folder, token_types=token_types, groups=groups)
        self.ends, self.units_end = ends, 0
        self.append("unit_offsets", np.zeros(1, np.int64))
        for name in ("unit_positions", "unit_labels", *(("unit_ends",) if ends else ())):
            self.append(name, np.zeros(0, np.uint8))

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        is_labelled = [bool((np.asarray(row["labels"]) >= 0).any()) for row in rows]
        super().add([row | {"labels": 0 if labelled else -100} for row, labelled in zip(rows, is_labelled)])
        ends = self.units_end + np.cumsum([len(row["unit_positions"]) for row in rows], dtype=np.int64)
        self.units_end = int(ends[-1])
        self.append("unit_offsets", ends)
        self.append("unit_positions", np.concatenate([np.asarray(row["unit_positions"], np.int32) for row in rows]))
        self.append("unit_labels", np.concatenate([np.asarray(row["labels"], np.int64) for row in rows]))
        if self.ends:
            self.append("unit_ends", np.concatenate([np.asarray(row["unit_ends"], np.int32) for row in rows]))

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"ends": self.ends}
