"""Splits: a source becomes training, validation and test rows with fixed columns, one label order and a row id."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Image

from potstill.contracts.answers import Answers
from potstill.contracts.task import Task
from potstill.data import holdout
from potstill.data.arrow import dataset_of
from potstill.data.fingerprint import hash_of, row_hashes, rows_hash
from potstill.data.reading import Reader, RowSettings, shown
from potstill.data.sources import read_source
from potstill.data.spool import taken
from potstill.errors import DataError
from potstill.ground.counted import counted, inflected

logger = logging.getLogger(__name__)

SHARE = 0.1
"""Share of the training rows that is carved out for a validation or test split that is not given."""


@dataclass(frozen=True)
class Splits:
    """Rows ready to be encoded.

    Every split has the columns ``text`` (and ``text_pair``) or ``image``, ``label`` (int64, −100 where there is none; float32
    lists for several labels, −100, and for numbers, NaN) and ``row_id`` (int64, unique over all splits).

    Attributes:
        train: Rows to learn from.
        validation: Rows to choose by.
        test: Rows to report on.
        unlabelled: Rows without labels, or None.
        label_names: Position → name.
        notes: What was decided or found, for the log and the report.
        fingerprint: Hash of all rows and the label order.
        columns: Role → column of the training rows.
        warnings: What a reader of the figures must know, such as that a test file has no labels.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    unlabelled: Dataset | None
    label_names: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str
    columns: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load(
    source: Any,
    *,
    task: Task,
    columns: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    validation: Any = None,
    test: Any = None,
    unlabelled: Any = None,
    seed: int = 0,
    max_rows: int | None = None,
    skip_corrupt: bool = False,
    label_map: Mapping[str, str] | None = None,
    use_unlabelled: bool = False,
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
        label_map: Label of the data → label to take it for.
        use_unlabelled: Whether training rows without a label are used as unlabelled ones instead of refused.

    Raises:
        DataError: Something in the data cannot be used; the message says what, what is accepted and what to do.
    """
    reader = Reader(task, columns, RowSettings(skip_corrupt, label_map or {}, use_unlabelled), label_names or ())
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
    train, labels = parts["train"], reader.labels
    names, mapping = labels.order(train.raw, train.roles, train.feature, label_names)
    reader.notes += mapping.notes
    positions = {split: mapping.positions(part.raw, split) for split, part in parts.items()}
    tables = {split: (part.content, positions[split]) for split, part in parts.items()}
    holdout.note_duplicates(tables, reader.notes)
    _carve_missing(tables, seed, reader.notes, labels)
    if max_rows is not None:
        tables = {
            split: holdout.thin(*table, max_rows, seed, split, reader.notes, strata=labels.strata(table[1]))
            for split, table in tables.items()
        }
    extra = reader.unlabelled(unlabelled, found)
    if extra is not None:
        tables["unlabelled"] = (extra, labels.missing(extra.num_rows, names))
    splits = _finish({split: labels.spread(*table) for split, table in tables.items()}, names, reader.notes)
    for warning in reader.warnings:
        logger.warning("%s", warning)
    return replace(splits, columns=train.roles, warnings=tuple(reader.warnings))


def load_rows(
    source: Any,
    *,
    task: Task,
    label_names: Sequence[str],
    columns: Mapping[str, Any] | None = None,
    split: str = "test",
    skip_corrupt: bool = False,
    label_map: Mapping[str, str] | None = None,
    use_unlabelled: bool = False,
) -> Dataset:
    """Read one split with labels in a known order, for example to evaluate a model on a new file.

    Args:
        source: As in `load`; of a source with splits, `split` is taken, else all rows.
        task: Says which columns are wanted.
        label_names: The model's labels; the rows may lack some of them.
        columns: Role → column, where the user says so.
        split: The split wanted.
        skip_corrupt: As in `load`.
        label_map: As in `load`.
        use_unlabelled: Whether rows without a label are left out instead of refused.

    Raises:
        DataError: As `load`.
    """
    reader = Reader(task, columns, RowSettings(skip_corrupt, label_map or {}, use_unlabelled), label_names or ())
    found = read_source(source, modality=task.modality)
    chosen = split if split in found.splits else next(iter(found.splits))
    if reader.is_without_labels(found.splits[chosen]):
        raise DataError(
            f"{source} has no labels",
            "rows with labels, to measure a model by",
            f"for predictions alone: potstill predict OUT --data {shown(source)} -o predictions.csv",
        )
    part = reader.part(found.splits[chosen], chosen, found)
    values = reader.labels.known(label_names, part.raw, part.roles).positions(part.raw, chosen)
    return _as_dataset(*reader.labels.spread(part.content, values), 0)


def rows_without_labels(content: pa.Table, answers: Answers, label_names: Sequence[str]) -> Dataset:
    """Content as rows that are ready to be encoded, with row ids from 0 and no label."""
    return _as_dataset(*answers.spread(content, answers.missing(content.num_rows, label_names)), 0)


def _carve_missing(tables: dict[str, tuple[pa.Table, np.ndarray]], seed: int, notes: list[str], labels: Answers) -> None:
    missing = [split for split in ("validation", "test") if split not in tables]
    if not missing:
        return
    content, label = tables["train"]
    hashes, strata = row_hashes(content), labels.strata(label)
    left = np.arange(len(label))
    for offset, split in enumerate(missing):
        rows = left[holdout.stratified(hashes[left], strata[left], round(len(label) * SHARE), seed + offset)]
        if len(rows) == 0:
            if len(label) > 2 and len(np.unique(strata)) == len(label):
                raise DataError(
                    f"each of the {len(label)} training rows has a label of its own, which no other row can teach",
                    "labels that several rows have in common",
                    "name the column of the labels: data.columns: {label: NAME}",
                )
            raise DataError(
                f"the {counted(len(label), 'training row is', 'training rows are')} too few to carve a {split} split out of them",
                "at least two rows of some label for each split to be carved out",
                f"add rows, or give the {split} split: data.{split}: FILE",
            )
        left = np.setdiff1d(left, rows)
        tables[split] = (taken(content, rows), label[rows])
        notes.append(
            f"no {split} split was given: {len(rows)} of {len(label)} training rows"
            f" {inflected(len(rows), 'is', 'are')} held out for it (stratified, seed {seed})"
        )
    tables["train"] = (taken(content, left), label[left])


def _finish(tables: dict[str, tuple[pa.Table, np.ndarray]], names: tuple[str, ...], notes: list[str]) -> Splits:
    made: dict[str, Dataset] = {}
    start = 0
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
    table = content.append_column("label", _label_column(label)).append_column("row_id", row_ids)
    if "image" in content.column_names and pa.types.is_struct(table.schema.field("image").type):
        features = Features.from_arrow_schema(table.schema.remove_metadata()) | {"image": Image()}
        table = table.set_column(0, "image", _plain_images(table.column("image")))
        return dataset_of(table.replace_schema_metadata(None).cast(Features(features).arrow_schema))
    return dataset_of(table.replace_schema_metadata(None))


def _label_column(label: np.ndarray) -> pa.Array:
    if label.dtype == object:
        is_span = any(isinstance(item, dict) for row in label for item in row)
        span = pa.struct({"text": pa.large_string(), "answer_start": pa.int64()})
        return pa.array(label.tolist(), pa.list_(span if is_span else pa.int64()))
    if label.ndim == 1:
        return pa.array(label, pa.int64())
    return pa.FixedSizeListArray.from_arrays(pa.array(label.ravel(), pa.float32()), label.shape[1])


def _plain_images(struct: pa.ChunkedArray) -> pa.ChunkedArray:
    names = [struct.type.field(i).name for i in range(struct.type.num_fields)]
    chunks = []
    for chunk in struct.chunks:
        blank = pa.nulls(len(chunk))
        data = chunk.field("bytes").cast(pa.binary()) if "bytes" in names else blank.cast(pa.binary())
        path = chunk.field("path").cast(pa.string()) if "path" in names else blank.cast(pa.string())
        chunks.append(pa.StructArray.from_arrays([data, path], ["bytes", "path"]))
    return pa.chunked_array(chunks)
