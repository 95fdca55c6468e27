"""Splits: a source becomes training, validation and test rows with fixed columns, one label order and a row id."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, Value

from potstill.data import carving, labels
from potstill.data.fingerprint import hash_of, rows_hash
from potstill.data.images import image_array, is_readable, name_of
from potstill.data.sources import Source, read_source
from potstill.errors import DataError

logger = logging.getLogger(__name__)

SHARE = 0.1
"""Share of the training rows that is carved out for a validation or test split that is not given."""


class Columns(Protocol):
    """What `load` needs of a task."""

    modality: str

    def find_columns(self, dataset: Dataset, asked: Mapping[str, str] | None, *, labelled: bool = True) -> dict[str, str]:
        """Role → column."""
        ...


@dataclass(frozen=True)
class Splits:
    """Rows ready to be encoded.

    Every split has the columns ``text`` (and ``text_pair``) or ``image``, ``label`` (int64, −100 where there is none)
    and ``row_id`` (int64, unique over all splits).

    Attributes:
        train: Rows to learn from.
        validation: Rows to choose by.
        test: Rows to report on.
        unlabelled: Rows without labels, or None.
        label_names: Position → name.
        notes: What was decided or found, for the log and the report.
        fingerprint: Hash of all rows and the label order.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    unlabelled: Dataset | None
    label_names: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str


@dataclass
class _Part:
    """One split on its way: its content columns and its labels as written."""

    content: pa.Table
    raw: list[Any]
    label_column: str = "label"
    feature: Any = None


def load(
    source: Any,
    *,
    task: Columns,
    columns: Mapping[str, str] | None = None,
    label_names: Sequence[str] | None = None,
    validation: Any = None,
    test: Any = None,
    unlabelled: Any = None,
    seed: int = 0,
    max_rows: int | None = None,
    skip_corrupt: bool = False,
) -> Splits:
    """Read a source and make it into splits.

    Args:
        source: Hub id, file, folder, Dataset, DatasetDict or DataFrame; see `potstill.data.sources.read_source`.
        task: Says which columns are wanted.
        columns: Role → column, where the user says so.
        label_names: The order of labels to map onto, usually the teacher's; None takes the data's own.
        validation: A source for the validation split.
        test: A source for the test split.
        unlabelled: A source of rows without labels; also ``.txt``, one text a line.
        seed: For splits that are carved out and for `max_rows`.
        max_rows: Most rows in each split; more are thinned out by chance, with each class keeping its share.
        skip_corrupt: Whether images that cannot be read are left out instead of refused.

    Raises:
        DataError: Something in the data cannot be used; the message says what, what is accepted and what to do.
    """
    reader = _Reader(task, columns, skip_corrupt)
    found = read_source(source, modality=task.modality)
    reader.notes += found.notes
    if "train" not in found.splits:
        raise DataError(
            f"the data have no training split (found: {', '.join(found.splits)})",
            "a training split, or one file that is split by Potstill",
            "name the file for training train.jsonl (or .csv, .parquet …)",
        )
    parts = {"train": reader.part(found.splits["train"], "train", found)}
    for split, given in (("validation", validation), ("test", test)):
        if part := reader.extra(split, given, found):
            parts[split] = part
    names, mapping = _label_order(parts["train"], label_names)
    reader.notes += mapping.notes
    positions = {split: mapping.positions(part.raw, split) for split, part in parts.items()}
    tables = {split: (part.content, positions[split]) for split, part in parts.items()}
    carving.note_duplicates(tables, reader.notes)
    _carve_missing(tables, names, seed, reader.notes)
    if max_rows is not None:
        tables = {split: carving.thin(*table, max_rows, seed, split, reader.notes) for split, table in tables.items()}
    extra = reader.unlabelled(unlabelled, found)
    return _finish(tables, extra, names, reader.notes)


def load_rows(
    source: Any,
    *,
    task: Columns,
    label_names: Sequence[str],
    columns: Mapping[str, str] | None = None,
    split: str = "test",
    skip_corrupt: bool = False,
) -> Dataset:
    """Read one split with labels in a known order, for example to evaluate a model on a new file.

    Args:
        source: As in `load`; of a source with splits, `split` is taken, else all rows.
        task: Says which columns are wanted.
        label_names: The model's labels; the rows may lack some of them.
        columns: Role → column, where the user says so.
        split: The split wanted.
        skip_corrupt: As in `load`.

    Raises:
        DataError: As `load`.
    """
    reader = _Reader(task, columns, skip_corrupt)
    found = read_source(source, modality=task.modality)
    chosen = split if split in found.splits else next(iter(found.splits))
    part = reader.part(found.splits[chosen], chosen, found)
    mapping = labels.LabelMap(label_names, part.raw, given=True, subset=True)
    return _as_dataset(part.content, mapping.positions(part.raw, chosen), 0)


class _Reader:
    """Brings each split into fixed columns and collects what there is to say."""

    def __init__(self, task: Columns, columns: Mapping[str, str] | None, skip_corrupt: bool) -> None:
        self.task, self.asked, self.skip_corrupt = task, dict(columns or {}), skip_corrupt
        self.notes: list[str] = []
        self.roles: dict[str, str] | None = None

    def part(self, dataset: Dataset, split: str, source: Source) -> _Part:
        """A split with labels; every row must have one."""
        dataset, roles, raw = self._labelled(dataset, split)
        labels.refuse_missing(raw, roles["label"], split)
        return self._build(dataset, split, roles, raw, source)

    def extra(self, split: str, given: Any, found: Source) -> _Part | None:
        """The validation or test split: from its own source, else from the main one; None where there is none with labels."""
        source = found if given is None else read_source(given, modality=self.task.modality)
        if given is None and split not in source.splits:
            return None
        chosen = split if split in source.splits else next(iter(source.splits))
        dataset, roles, raw = self._labelled(source.splits[chosen], split)
        if given is None and all(label is None or label == -1 for label in raw):
            self.notes.append(f"the {split} split has no labels and is not used")
            return None
        labels.refuse_missing(raw, roles["label"], split)
        return self._build(dataset, split, roles, raw, source)

    def unlabelled(self, given: Any, found: Source) -> pa.Table | None:
        """The rows without labels, or None."""
        if given is None and "unlabelled" not in found.splits:
            return None
        source = found if given is None else read_source(given, modality=self.task.modality, labelled=False)
        chosen = "unlabelled" if "unlabelled" in source.splits else next(iter(source.splits))
        dataset = source.splits[chosen]
        asked = {role: column for role, column in self.asked.items() if role != "label" and column in dataset.features}
        roles = self.task.find_columns(dataset, asked, labelled=False)
        return self._build(dataset, "unlabelled", roles, [], source).content

    def _labelled(self, dataset: Dataset, split: str) -> tuple[Dataset, dict[str, str], list[Any]]:
        if len(dataset) == 0:
            raise DataError(f"the {split} split has no rows", "at least one row in each split", "check how it was written")
        if self.roles is None or any(column not in dataset.features for column in self.roles.values()):
            roles = self.task.find_columns(dataset, self.asked)
            taken = ", ".join(f"{role} from {column!r}" for role, column in roles.items())
            self.notes.append(f"columns of the {split} split: {taken}")
            self.roles = self.roles or roles
        else:
            roles = self.roles
        return dataset, roles, labels.raw_labels(dataset, roles["label"], split)

    def _build(self, dataset: Dataset, split: str, roles: dict[str, str], raw: list[Any], source: Source) -> _Part:
        label = roles.get("label", "")
        feature = dataset.features.get(label)
        if self.task.modality == "image":
            content, keep = self._images(dataset, roles["image"], split, source.folder)
            raw = [raw[i] for i in keep] if raw and len(keep) < len(raw) else raw
        else:
            content = self._texts(dataset, roles, split)
        return _Part(content, raw, label, feature)

    def _texts(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> pa.Table:
        wanted = [role for role in ("text", "text_pair") if role in roles]
        table = _arrow(dataset, [roles[role] for role in wanted])
        content = pa.table({role: _strings(table.column(roles[role]), roles[role]) for role in wanted})
        empty = pc.sum(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(content["text"])), 0)).as_py() or 0
        if empty == content.num_rows:
            raise DataError(
                f"all {empty} texts of the {split} split are empty (column {roles['text']!r})",
                "texts with at least one character",
                "name the column that holds the texts: data.columns: {text: …}",
            )
        if empty:
            self.notes.append(f"{empty} of {content.num_rows} texts of the {split} split are empty; they are kept")
        return content

    def _images(self, dataset: Dataset, column: str, split: str, folder: Path | None) -> tuple[pa.Table, list[int]]:
        values = _image_column(dataset, column, folder)
        faults = {}
        for row in range(len(values)):
            value = values[row].as_py()
            if fault := is_readable(value, whole=self.skip_corrupt):
                faults[row] = (value, fault)
                if not self.skip_corrupt:
                    break
        if faults and not self.skip_corrupt:
            from potstill.data.images import corrupt_image

            row, (value, fault) = next(iter(faults.items()))
            raise corrupt_image(value, row, fault)
        keep = [row for row in range(len(values)) if row not in faults]
        if faults:
            named = ", ".join(name_of(value, row) for row, (value, _) in list(faults.items())[:5])
            self.notes.append(f"{len(faults)} images of the {split} split cannot be read and are left out: {named}")
        if not keep:
            raise DataError(
                f"none of the {len(values)} images of the {split} split can be read", "whole images", "check the files"
            )
        return pa.table({"image": values.take(keep) if faults else values}), keep


def _arrow(dataset: Dataset, columns: list[str]) -> pa.Table:
    return dataset.select_columns(columns).with_format("arrow")[:]


def _strings(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    try:
        return pc.fill_null(pc.cast(column, pa.large_string()), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as err:
        raise DataError(
            f"column {name!r} holds {column.type}", "a column of texts", "name another column: data.columns: {text: …}"
        ) from err


def _image_column(dataset: Dataset, column: str, folder: Path | None) -> pa.ChunkedArray:
    feature = dataset.features[column]
    values = dataset.select_columns([column]).with_format("arrow")[:].column(column)
    if isinstance(feature, Image) or pa.types.is_struct(values.type):
        return values
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        paths = [str(Path(folder or ".") / str(value)) for value in values.to_pylist()]
        return pa.chunked_array([image_array(paths)])
    return values


def _label_order(train: _Part, given: Sequence[str] | None) -> tuple[tuple[str, ...], labels.LabelMap]:
    found = set(train.raw)
    own = labels.names_of(found, train.feature)
    present = {labels.as_name(label) for label in found}
    if len(present) < 2:
        raise DataError(
            f"all {len(train.raw)} training rows have the label {next(iter(present))!r} (column {train.label_column!r})",
            "at least two labels",
            "add rows of another label, or name another label column: data.columns: {label: …}",
        )
    if given is None:
        return own, labels.LabelMap(own, found)
    names = tuple(str(name) for name in given)
    return names, labels.LabelMap(names, _seen_by_teacher(train, own), given=True)


def _seen_by_teacher(train: _Part, own: Sequence[str]) -> list[Any]:
    """What has to agree with the teacher: all names of a ClassLabel, also those without a row, else the labels found."""
    return list(own) if getattr(train.feature, "names", None) else list(set(train.raw))


def _carve_missing(tables: dict[str, tuple[pa.Table, np.ndarray]], names: Sequence[str], seed: int, notes: list[str]) -> None:
    missing = [split for split in ("validation", "test") if split not in tables]
    total = tables["train"][0].num_rows
    for offset, split in enumerate(missing):
        content, label = tables["train"]
        rows = carving.stratified(content, label, round(total * SHARE), seed + offset)
        if len(rows) == 0:
            raise DataError(
                f"the {total} training rows are too few to carve a {split} split out of them",
                "at least two rows of some label for each split to be carved out",
                f"add rows, or give the {split} split: data.{split}: FILE",
            )
        keep = np.setdiff1d(np.arange(len(label)), rows)
        tables[split] = (content.take(rows), label[rows])
        tables["train"] = (content.take(keep), label[keep])
        notes.append(
            f"no {split} split was given: {len(rows)} of {total} training rows are held out for it (stratified, seed {seed})"
        )
        lost = [names[i] for i in np.setdiff1d(label, label[keep])]
        assert not lost, lost


def _finish(
    tables: dict[str, tuple[pa.Table, np.ndarray]], extra: pa.Table | None, names: tuple[str, ...], notes: list[str]
) -> Splits:
    made: dict[str, Dataset] = {}
    start = 0
    if extra is not None:
        tables = {**tables, "unlabelled": (extra, np.full(extra.num_rows, labels.NO_LABEL, np.int64))}
    for split in ("train", "validation", "test", "unlabelled"):
        if split in tables:
            made[split] = _as_dataset(*tables[split], start)
            start += len(made[split])
    for note in notes:
        logger.info("%s", note)
    fingerprint = hash_of(*names, *(f"{split}:{rows_hash(rows)}" for split, rows in made.items()))
    return Splits(made["train"], made["validation"], made["test"], made.get("unlabelled"), names, tuple(notes), fingerprint)


def _as_dataset(content: pa.Table, label: np.ndarray, start: int) -> Dataset:
    row_ids = pa.array(np.arange(start, start + content.num_rows, dtype=np.int64))
    table = content.append_column("label", pa.array(label, pa.int64())).append_column("row_id", row_ids)
    if "image" in content.column_names and pa.types.is_struct(table.schema.field("image").type):
        features = Features({"image": Image(), "label": Value("int64"), "row_id": Value("int64")})
        struct = table.column("image")
        table = table.set_column(0, "image", _plain_images(struct))
        return Dataset(table.replace_schema_metadata(None).cast(features.arrow_schema))
    return Dataset(table.replace_schema_metadata(None))


def _plain_images(struct: pa.ChunkedArray) -> pa.ChunkedArray:
    names = [struct.type.field(i).name for i in range(struct.type.num_fields)]
    chunks = []
    for chunk in struct.chunks:
        blank = pa.nulls(len(chunk))
        data = chunk.field("bytes").cast(pa.binary()) if "bytes" in names else blank.cast(pa.binary())
        path = chunk.field("path").cast(pa.string()) if "path" in names else blank.cast(pa.string())
        chunks.append(pa.StructArray.from_arrays([data, path], ["bytes", "path"]))
    return pa.chunked_array(chunks)
