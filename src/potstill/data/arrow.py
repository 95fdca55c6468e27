"""The Arrow table behind a data set, without the copy that formatted access makes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pyarrow as pa
from datasets import Dataset


def table_of(dataset: Dataset, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a data set in their order, as a table of these columns; copied only where rows were selected from others."""
    if dataset._indices is not None:
        picked = dataset.select_columns(list(columns)) if columns is not None else dataset
        return picked.with_format("arrow")[:]
    table = dataset.data.table
    return table.select(list(columns)) if columns is not None else table


def dataset_of(table: pa.Table) -> Dataset:
    """A data set on top of an Arrow table.

    It gets a name of its own in the cache of `datasets`, which would otherwise copy the whole table to hash it.
    """
    return Dataset(table, fingerprint=uuid.uuid4().hex[:16])
