"""Encoded rows: written once, memory-mapped after that, handed to DataLoader workers as a path."""

# N rows, T tokens of a row, U units of a row, C channels, H height, W width

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from potstill.data.fingerprint import hash_of
from potstill.data.row_files import FORMAT, MANIFEST, ImageWriter, RowWriter, TextWriter, UnitWriter
from potstill.errors import CacheError, DataError

_COPIED_ROWS = 2_048
_COUNTED_TOKENS = 1 << 20


class EncodedRows(TorchDataset):
    """Rows that a model can take, found by position and known by row id.

    Attributes:
        row_ids: Row id of each row [N] int64.
        labels: Label of each row [N] int64, −100 where there is none; [N, C] float32 of several labels (−100) or numbers (NaN).
        lengths: Tokens of each row [N] int32; ones for images.
        groups: Where long inputs were split into several rows: the row id of the first part, for each row [N]; else None.
        fingerprint: Hash of what the rows were made of.
        notes: What there is to say about the encoding.
        writer: Writes rows of this kind.
    """

    row_ids: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    fingerprint: str
    groups: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    writer: type[RowWriter]

    def __len__(self) -> int:
        return len(self.row_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at `indices`: ``row_id``, ``labels`` and the model's inputs as arrays without a batch axis."""
        raise NotImplementedError

    def label(self, index: int) -> Any:
        """The label of one row: a number, or [C] float32."""
        return self.labels[index] if self.labels.ndim > 1 else self.labels[index].item()

    def subset(self, indices: Iterable[int] | np.ndarray) -> EncodedRows:
        """A view of some rows, in the order of `indices`."""
        return _Selection(self, np.asarray(list(indices) if not isinstance(indices, np.ndarray) else indices, np.int64))

    def save(self, folder: Path | str) -> EncodedRows:
        """Write the rows into a folder and return them as opened from there."""
        writer = self.writer(Path(folder))
        for start in range(0, len(self), _COPIED_ROWS):
            writer.add(self.__getitems__(range(start, min(start + _COPIED_ROWS, len(self)))))
        writer.close(self.fingerprint, self.notes)
        return open_rows(folder)


class _Stored(EncodedRows):
    """Rows whose arrays are memory-mapped files of one folder; pickled as the path of that folder."""

    kind: str

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._map(_read_manifest(self.folder, self.kind))

    def _map(self, manifest: dict[str, Any]) -> None:
        self.rows = int(manifest["rows"])
        self.fingerprint, self.notes = manifest["fingerprint"], tuple(manifest["notes"])
        self.row_ids = self._array("row_ids", np.int64, (self.rows,))
        kind = manifest.get("labels", {"dtype": "int64", "shape": []})
        self.labels = self._array("labels", np.dtype(kind["dtype"]), (self.rows, *kind["shape"]))

    def _array(self, name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        path = self.folder / f"{name}.bin"
        expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found = path.stat().st_size if path.is_file() else -1
        if found != expected:
            raise CacheError(
                f"{path} is {'missing' if found < 0 else f'{found} bytes long'}, and should be {expected} bytes long",
                "encoded rows as they were written",
                f"remove {self.folder}; the next run encodes the rows again",
            )
        if expected == 0:
            return np.zeros(shape, dtype)
        return np.asarray(np.memmap(path, dtype, mode="r", shape=shape))

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]


class EncodedText(_Stored):
    """Texts as token ids: all ids end to end in one file, and where each row begins in another."""

    kind, writer = "text", TextWriter

    def _map(self, manifest: dict[str, Any]) -> None:
        super()._map(manifest)
        self.offsets = self._array("offsets", np.int64, (self.rows + 1,))
        self.lengths = np.diff(self.offsets).astype(np.int32)
        total = int(self.offsets[-1])
        self.tokens = self._array("tokens", np.int32, (total,))
        self.types = self._array("token_types", np.uint8, (total,)) if manifest["token_type_ids"] else None
        self.groups = self._array("groups", np.int64, (self.rows,)) if manifest.get("groups") else None

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = []
        for i in indices:
            i = self.rows + i if i < 0 else i
            start, end = self.offsets[i], self.offsets[i + 1]
            row = {"row_id": int(self.row_ids[i]), "labels": self.label(i), "input_ids": self.tokens[start:end]}
            if self.types is not None:
                row["token_type_ids"] = self.types[start:end]
            if self.groups is not None:
                row["group"] = int(self.groups[i])
            rows.append(row)
        return rows

    def token_counts(self) -> dict[int, int]:
        """How often each token id occurs, padding left out because it is never stored."""
        total: Counter[int] = Counter()
        for part in batches_of(len(self.tokens), _COUNTED_TOKENS):
            ids, counts = np.unique(self.tokens[part.start : part.stop], return_counts=True)
            total.update(dict(zip(ids.tolist(), counts.tolist())))
        return dict(sorted(total.items()))


class EncodedUnits(EncodedText):
    """Texts as token ids, and for each unit of the row's answer where it stands among them.

    A unit is a word. Student and teacher cut words into different tokens, but they have the same words, so what they say is
    compared unit by unit. With `ends`, units are places where a span may begin or end, and labels are a first and a last unit.

    Attributes:
        num_units: Units of each row [N] int64.
        has_ends: Whether the last token of each unit is kept as well as the first.
    """

    kind, writer = "units", UnitWriter

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


class EncodedImages(_Stored):
    """Images as bytes [N, C, H, W] uint8, resized as the image processor says; scaling and normalising wait for the collator."""

    kind, writer = "images", ImageWriter

    def _map(self, manifest: dict[str, Any]) -> None:
        super()._map(manifest)
        self.shape = tuple(manifest["shape"])
        self.lengths = np.ones(self.rows, np.int32)
        self.pixels = self._array("pixels", np.uint8, (self.rows, *self.shape))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [{"row_id": int(self.row_ids[i]), "labels": self.label(i), "pixel_values": self.pixels[i]} for i in indices]


class _Selection(EncodedRows):
    """Some rows of other rows."""

    def __init__(self, base: EncodedRows, indices: np.ndarray) -> None:
        self.base, self.indices, self.writer = base, indices, base.writer
        if len(indices) and (indices.min() < -len(base) or indices.max() >= len(base)):
            raise IndexError(f"rows {indices.min()} to {indices.max()} asked for, of {len(base)}")
        self.row_ids, self.labels, self.lengths = base.row_ids[indices], base.labels[indices], base.lengths[indices]
        self.groups = None if base.groups is None else base.groups[indices]
        self.fingerprint, self.notes = hash_of(base.fingerprint, indices.tobytes()), base.notes

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self.base.__getitems__(self.indices[np.asarray(indices, np.int64)].tolist())


class _Joined(EncodedRows):
    """Several parts, one after the other."""

    def __init__(self, parts: Sequence[EncodedRows]) -> None:
        self.parts, self.writer = list(parts), parts[0].writer
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.row_ids = np.concatenate([part.row_ids for part in parts])
        self.labels = np.concatenate([part.labels for part in parts])
        self.lengths = np.concatenate([part.lengths for part in parts])
        if any(part.groups is not None for part in parts):
            self.groups = np.concatenate([part.row_ids if part.groups is None else part.groups for part in parts])
        self.fingerprint = hash_of(*(part.fingerprint for part in parts))
        self.notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        asked = np.asarray(indices, np.int64)
        asked = np.where(asked < 0, asked + len(self), asked)
        owner = np.searchsorted(self.starts, asked, side="right") - 1
        rows: list[dict[str, Any]] = [{}] * len(asked)
        for number in np.unique(owner):
            places = np.flatnonzero(owner == number)
            found = self.parts[number].__getitems__((asked[places] - self.starts[number]).tolist())
            for place, row in zip(places, found):
                rows[place] = row
        return rows


def concatenate(parts: Sequence[EncodedRows]) -> EncodedRows:
    """A view of all rows of several parts, for example training rows and augmented ones.

    Raises:
        DataError: No part, or the same row id in two of them.
    """
    if not parts:
        raise DataError("there are no rows to join", "at least one part")
    if len(parts) == 1:
        return parts[0]
    joined = _Joined(parts)
    if len(np.unique(joined.row_ids)) < len(joined):
        raise DataError(
            "some row ids occur more than once in the joined rows", "row ids that differ", "encode them from one `load`"
        )
    return joined


def open_rows(folder: Path | str) -> EncodedRows:
    """Open rows that were written to a folder, in no time: files are mapped, not read.

    Raises:
        CacheError: No encoded rows there, or files that are not as they were written.
    """
    kinds = {stored.kind: stored for stored in (EncodedText, EncodedUnits, EncodedImages)}
    kind = _read_manifest(Path(folder))["kind"]
    if kind not in kinds:
        raise CacheError(f"{folder} holds rows of kind {kind!r}", " or ".join(kinds), f"remove {folder} and encode again")
    return kinds[kind](folder)


def has_rows(folder: Path, fingerprint: str) -> bool:
    """Whether a folder holds whole encoded rows with this fingerprint."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        return open_rows(folder).fingerprint == fingerprint
    except CacheError:
        return False


def _read_manifest(folder: Path, kind: str | None = None) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise CacheError(f"{folder} holds no encoded rows", "a folder that encode or save has written", "encode the rows first")
    try:
        manifest = json.loads(path.read_text("utf-8"))
        found = manifest["format"], manifest["kind"]
    except (ValueError, KeyError, TypeError) as err:
        raise CacheError(f"{path} is damaged", "a manifest as it was written", f"remove {folder} and encode again") from err
    if found[0] != FORMAT or found[1] != (kind or found[1]):
        raise CacheError(
            f"{path} has format {found}", f"format {(FORMAT, kind or 'text or images')}", f"remove {folder} and encode again"
        )
    return manifest


def batches_of(total: int, size: int) -> Iterator[range]:
    """The rows 0 … total − 1 in ranges of at most `size`."""
    for start in range(0, total, size):
        yield range(start, min(start + size, total))
