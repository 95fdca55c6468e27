"""Writes encoded rows: flat files that grow row by row, and a manifest that makes them valid."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "manifest.json"
FORMAT = 1
ABSENT, PADDING = -1, -2
"""Positions of a unit that the tokenizer dropped or cut off, and of a place that only pads a batch."""


class RowWriter:
    """Appends rows to the files of a folder; the manifest, written last, makes them valid. Earlier files are replaced."""

    kind = ""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self.rows = 0
        self.labels: dict[str, Any] = {"dtype": "int64", "shape": []}
        self._files: dict[str, Any] = {}

    def append(self, name: str, array: np.ndarray) -> None:
        """Append an array to the file of that name."""
        if name not in self._files:
            self._files[name] = (self.folder / f"{name}.bin").open("wb")
        self._files[name].write(np.ascontiguousarray(array).data)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows as `EncodedRows` gives them."""
        self.append("row_ids", np.array([row["row_id"] for row in rows], np.int64))
        self.append_labels([row["labels"] for row in rows])
        self.rows += len(rows)

    def append_labels(self, labels: Sequence[Any]) -> None:
        """Append labels: whole numbers, or as many float32 numbers for each row."""
        values = np.asarray(labels)
        values = values.astype(np.float32 if np.issubdtype(values.dtype, np.floating) else np.int64)
        self.labels = {"dtype": values.dtype.name, "shape": list(values.shape[1:])}
        self.append("labels", values)

    def facts(self) -> dict[str, Any]:
        """What the manifest says besides the common part."""
        return {}

    def close(self, fingerprint: str, notes: Iterable[str] = ()) -> None:
        """Finish the files and write the manifest."""
        for file in self._files.values():
            file.close()
        manifest = {
            "format": FORMAT,
            "kind": self.kind,
            "rows": self.rows,
            "labels": self.labels,
            "fingerprint": fingerprint,
            "notes": list(notes),
        } | self.facts()
        part = self.folder / f"{MANIFEST}.part"
        part.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), "utf-8")
        os.replace(part, self.folder / MANIFEST)


class TextWriter(RowWriter):
    """Writes token ids end to end, with token types and groups where the first row has them."""

    kind = "text"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.token_types, self.groups, self.end = False, False, 0
        self.append("offsets", np.zeros(1, np.int64))
        for name in ("row_ids", "labels", "tokens"):
            self.append(name, np.zeros(0, np.uint8))

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        if not self.rows:
            self.token_types, self.groups = "token_type_ids" in rows[0], "group" in rows[0]
        super().add(rows)
        ends = self.end + np.cumsum([len(row["input_ids"]) for row in rows], dtype=np.int64)
        self.end = int(ends[-1])
        self.append("offsets", ends)
        self.append("tokens", np.concatenate([np.asarray(row["input_ids"], np.int32) for row in rows]))
        if self.token_types:
            self.append("token_types", np.concatenate([np.asarray(row["token_type_ids"], np.uint8) for row in rows]))
        if self.groups:
            self.append("groups", np.array([row["group"] for row in rows], np.int64))

    def facts(self) -> dict[str, Any]:
        return {"token_type_ids": self.token_types, "groups": self.groups}


class ImageWriter(RowWriter):
    """Writes images of one shape [C, H, W]."""

    kind = "images"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.shape: tuple[int, ...] = (0, 0, 0)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        super().add(rows)
        pixels = np.stack([row["pixel_values"] for row in rows])
        self.shape = pixels.shape[1:]
        self.append("pixels", pixels)

    def facts(self) -> dict[str, Any]:
        return {"shape": list(self.shape)}


class UnitWriter(TextWriter):
    """Writes token ids and the units of each row, with their ends where the first row has them."""

    kind = "units"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ends, self.units_end = False, 0
        self.append("unit_offsets", np.zeros(1, np.int64))
        for name in ("unit_positions", "unit_labels"):
            self.append(name, np.zeros(0, np.uint8))

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        if not self.rows:
            self.ends = "unit_ends" in rows[0]
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
