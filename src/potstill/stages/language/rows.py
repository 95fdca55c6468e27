"""Stage `data` of a language model: rows read, split, and encoded as documents in the tokens of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.modalities.language.rows import RowsOptions, TokenRows, encode_splits, rows_in


def read_rows(given: Given, options: RowsOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Read the rows and encode every split."""
    source = given.given.data if given.given.data is not None else options.data.source
    rows = encode_splits(
        source, options, given.teacher.tokenizer, folder, lambda done, total: observer.stage_advanced(done, total, {})
    )
    notes: Sequence[str] = rows.facts["notes"]
    return notes


def open_rows(folder: Path, given: Given) -> TokenRows:
    """The documents that `read_rows` left."""
    return rows_in(folder)
