"""Rows of several tasks in one run: label spaces side by side, and a row's task known by its id.

The labels of task k are the classes from `start` to `stop` of one joint order, named ``task/label``. Row ids of task k lie from
k · `SPAN` to (k + 1) · `SPAN`, so that encoded, cut, augmented and cached rows keep their task without a column of their own.
"""

# B batch, C classes of all tasks, N rows

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from potstill.contracts.answers import NO_LABEL
from potstill.data.arrow import dataset_of, table_of
from potstill.data.collate import TASK_CLASSES
from potstill.data.encoded import EncodedRows
from potstill.data.fingerprint import hash_of
from potstill.data.splits import Splits
from potstill.errors import DataError

SPAN = 1_000_000_000
"""Row ids that a task has for its rows."""
SEPARATOR = "/"
SPLITS = ("train", "validation", "test", "unlabelled")
Rows = TypeVar("Rows", Dataset, EncodedRows)


def blocks_of(label_names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Task → (start, stop) of its classes in the joint order.

    Example:
        >>> blocks_of(["mood/bad", "mood/good", "topic/film", "topic/book", "topic/song"])
        {'mood': (0, 2), 'topic': (2, 5)}
    """
    found: dict[str, tuple[int, int]] = {}
    for index, name in enumerate(label_names):
        task = name.partition(SEPARATOR)[0]
        found[task] = (found.get(task, (index, index))[0], index + 1)
    return found


def numbers_of(row_ids: Any) -> np.ndarray:
    """The number of each row's task [N]."""
    return np.asarray(row_ids, np.int64) // SPAN


def rows_of(rows: Rows, number: int) -> Rows:
    """Those rows that belong to a task; they may be none."""
    ids = rows.row_ids if isinstance(rows, EncodedRows) else rows["row_id"]
    places = np.flatnonzero(numbers_of(ids) == number)
    if isinstance(rows, EncodedRows):
        return rows.subset(places)  # type: ignore[return-value]
    return rows.select(places)  # type: ignore[return-value]


def of_task(rows: Dataset, number: int, start: int) -> Dataset:
    """The rows of a task as they were before they were joined with those of others, but for their ids."""
    return dataset_of(_moved(table_of(rows_of(rows, number)), label=-start, row_id=0))


def to_task(rows: Dataset, number: int, start: int) -> Dataset:
    """Rows of one task, read by themselves, at the places of that task; the inverse of `of_task`."""
    return dataset_of(_moved(table_of(rows), label=start, row_id=number * SPAN))


@dataclass(frozen=True)
class TaskCollator:
    """Adds ``task_classes`` [B, 2] int64 to a batch: where the classes of each row's task begin and end.

    Attributes:
        base: Makes the batch.
        blocks: (start, stop) of each task, in order.
    """

    base: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    blocks: tuple[tuple[int, int], ...]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.base(rows)
        numbers = torch.div(batch["row_id"], SPAN, rounding_mode="floor")
        return batch | {TASK_CLASSES: torch.tensor(self.blocks, dtype=torch.int64)[numbers]}


def join_tasks(parts: Mapping[str, Splits]) -> Splits:
    """The rows of several tasks as one: labels and row ids moved to the places of their task.

    Args:
        parts: Task → its splits, in the order of the joint labels.

    Raises:
        DataError: Some tasks have pairs of texts and others single texts.
    """
    names: list[str] = []
    tables: dict[str, list[pa.Table]] = {name: [] for name in SPLITS}
    for number, (task, part) in enumerate(parts.items()):
        for split in SPLITS:
            if (rows := getattr(part, split)) is not None:
                tables[split].append(_moved(table_of(rows), label=len(names), row_id=number * SPAN))
        names += [f"{task}{SEPARATOR}{label}" for label in part.label_names]
    _check_columns({task: part.train.column_names for task, part in parts.items()})
    joined = {split: dataset_of(_joined(found)) if found else None for split, found in tables.items()}
    notes = tuple(f"{task}: {note}" for task, part in parts.items() for note in part.notes)
    mark = hash_of(*names, *(part.fingerprint for part in parts.values()))
    warnings = tuple(f"{task}: {text}" for task, splits in parts.items() for text in splits.warnings)
    return Splits(**joined, label_names=tuple(names), notes=notes, fingerprint=mark, warnings=warnings)  # type: ignore[arg-type]


def _moved(table: pa.Table, *, label: int, row_id: int) -> pa.Table:
    """The same rows with labels and ids counted from the places of their task."""
    labels = np.asarray(table.column("label"))
    changed = {"label": np.where(labels == NO_LABEL, NO_LABEL, labels + label)}
    changed |= {name: np.asarray(table.column(name)) + row_id for name in ("row_id", "group") if name in table.column_names}
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.int64()))
    return table


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One below the other; where only some were read in segments, the rows of the others are their own groups."""
    if any("group" in table.column_names for table in tables):
        tables = [
            table if "group" in table.column_names else table.append_column("group", table.column("row_id")) for table in tables
        ]
    first = tables[0].schema
    return pa.concat_tables([tables[0], *(table.select(first.names).cast(first) for table in tables[1:])])


def _check_columns(columns: Mapping[str, Sequence[str]]) -> None:
    pairs = [task for task, names in columns.items() if "text_pair" in names]
    singles = [task for task in columns if task not in pairs]
    if pairs and singles:
        raise DataError(
            f"rows of {', '.join(pairs)} are pairs of texts, rows of {', '.join(singles)} are single texts",
            "tasks that all read single texts, or all pairs",
            "join the two texts of a pair in one column, or distil these tasks into students of their own",
        )
