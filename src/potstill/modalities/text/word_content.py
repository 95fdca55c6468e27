"""Columns of words, and of questions with their contexts, brought into fixed form and checked."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from datasets import Dataset

from potstill.data.arrow import table_of
from potstill.errors import DataError


def read_words(dataset: Dataset, column: str, split: str) -> pa.Table:
    """The column ``tokens``: a list of words a row.

    Raises:
        DataError: The column holds something else, an absent word, or no word in any row.
    """
    rows = table_of(dataset, [column]).column(0).to_pylist()
    for number, words in enumerate(rows, 1):
        if not isinstance(words, list) or any(not isinstance(word, str) for word in words):
            raise DataError(
                f"column {column!r} holds {_kind(words)} in row {number} of the {split} split",
                "a list of words in each row",
                "split the texts into words, or name another column: data.columns: {tokens: …}",
            )
    if not any(rows):
        raise DataError(f"no row of the {split} split has a word (column {column!r})", "rows with words", "check the column")
    return pa.table({"tokens": pa.array(rows, pa.list_(pa.large_string()))})


def read_contexts(dataset: Dataset, roles: Mapping[str, str], split: str) -> pa.Table:
    """The columns ``question`` and ``context``.

    Raises:
        DataError: A column that holds no texts, or an empty question or context.
    """
    columns = {}
    for role in ("question", "context"):
        values = table_of(dataset, [roles[role]]).column(0).to_pylist()
        for number, value in enumerate(values, 1):
            if not isinstance(value, str) or not value.strip():
                raise DataError(
                    f"the {role} of row {number} of the {split} split is empty or no text (column {roles[role]!r})",
                    "a question and a context in each row",
                    f"correct row {number}, or name other columns: data.columns: {{question: …, context: …}}",
                )
        columns[role] = pa.array(values, pa.large_string())
    return pa.table(columns)


def _kind(value: object) -> str:
    if isinstance(value, list):
        odd = next(word for word in value if not isinstance(word, str))
        return f"a list with {odd!r} in it"
    return "nothing" if value is None else f"a {type(value).__name__}"
