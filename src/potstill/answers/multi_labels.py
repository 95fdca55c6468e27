"""Several labels a row, as lists, delimited strings or 0/1 columns → one row of zeros and ones.

Shapes: N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from potstill.answers import class_labels as labels
from potstill.data.arrow import table_of
from potstill.errors import DataError

DELIMITERS = ("|", ";", ",")
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


def read_label_sets(dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
    """The labels of each row as a tuple, empty where none applies, None where the row has no labels at all.

    Args:
        dataset: Rows.
        roles: ``label`` → a column of lists, or of strings with the labels between ``|``, ``;`` or ``,``; or ``label:NAME`` →
            a column of 0 and 1 for each label.
        split: For messages.

    Raises:
        DataError: A value that is neither.
    """
    named = {role.removeprefix("label:"): column for role, column in roles.items() if role.startswith("label:")}
    if named:
        return _from_columns(dataset, named, split)
    column = roles["label"]
    values = table_of(dataset, [column]).column(0).to_pylist()
    inner = inner_feature(dataset.features[column])
    delimiter = None if inner is not None else delimiter_of(values)
    return [_as_set(value, inner, delimiter, column, split, row) for row, value in enumerate(values, 1)]


def inner_feature(feature: Any) -> Any:
    """What the lists of a column hold; None where it holds no lists."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", None)


def delimiter_of(values: Iterable[Any]) -> str | None:
    """The mark that stands between the labels of a string; None where no string has one."""
    strings = [value for value in values if isinstance(value, str)]
    counts = {mark: sum(mark in value for value in strings) for mark in DELIMITERS}
    best = max(DELIMITERS, key=lambda mark: counts[mark])
    return best if counts[best] else None


def _from_columns(dataset: Dataset, named: Mapping[str, str], split: str) -> list[Any]:
    columns = [_flags(table_of(dataset, [column]).column(0).to_pylist(), column, split) for column in named.values()]
    return [
        None if any(flag is None for flag in flags) else tuple(name for name, flag in zip(named, flags) if flag)
        for flags in zip(*columns)
    ]


def _flags(values: Sequence[Any], column: str, split: str) -> list[bool | None]:
    return [flag_of(value, column, split, row) for row, value in enumerate(values, 1)]


def flag_of(value: Any, column: str, split: str, row: int) -> bool | None:
    """A 0/1 value as a boolean; None where it is missing.

    Raises:
        DataError: Neither 0 nor 1.
    """
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
    if text in _YES or text in _NO:
        return text in _YES
    if text == "":
        return None
    raise DataError(
        f"column {column!r} has {value!r} in row {row} of the {split} split",
        "0 or 1 (also true and false) in a column that stands for one label",
        "correct the value, or name the columns of the labels: data.columns: {label: [column, column]}",
    )


def _as_set(value: Any, inner: Any, delimiter: str | None, column: str, split: str, row: int) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        parts = value.split(delimiter) if delimiter else [value]
        return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not isinstance(value, list | tuple):
        value = [value]
    if isinstance(inner, ClassLabel) and inner.names:
        return tuple(dict.fromkeys(inner.int2str(int(item)) for item in value))
    odd = [item for item in value if not isinstance(item, str | int)]
    if odd:
        raise DataError(
            f"column {column!r} has {odd[0]!r} among the labels of row {row} of the {split} split",
            "lists of names or whole numbers",
            "write each label as a name; for numbers to be predicted set task: regression",
        )
    return tuple(dict.fromkeys(value))


def set_order(
    raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None, *, subset: bool = False
) -> tuple[tuple[str, ...], LabelSetMap]:
    """The labels in their order and what takes rows to it.

    Raises:
        DataError: Every row has the same labels, or labels that the teacher lacks.
    """
    found = {label for row in raw if row is not None for label in row}
    columns = tuple(role.removeprefix("label:") for role in roles if role.startswith("label:"))
    own = columns or labels.names_of(found, inner_feature(feature))
    if given is None and (not found or len({frozenset(row) for row in raw if row is not None}) < 2):
        raise DataError(
            f"all {len(raw)} training rows have the same labels ({labels.listed(own) if own else 'none'})",
            "rows whose labels differ",
            "add rows with other labels, or name another label column: data.columns: {label: …}",
        )
    if given is None:
        return own, LabelSetMap(labels.LabelMap(own, found))
    if labels.are_placeholders(given) and len(own) == len(given) and not subset:
        mapping = LabelSetMap(labels.LabelMap(own, found))
        mapping.notes.append("the teacher's labels have no names; those of the data are taken, in the data's order")
        return own, mapping
    names = tuple(str(name) for name in given)
    return names, LabelSetMap(labels.LabelMap(names, found, given=True, subset=True))


class LabelSetMap:
    """Takes sets of labels to rows of zeros and ones.

    Args:
        single: Takes one label to its position.
    """

    def __init__(self, single: labels.LabelMap) -> None:
        self.single, self.names, self.notes = single, single.names, single.notes

    def positions(self, raw: Sequence[Any], split: str) -> np.ndarray:
        """[N, C] float32; −100 in every place of a row without labels.

        Raises:
            DataError: The split has labels that the names lack.
        """
        values = np.zeros((len(raw), len(self.names)), np.float32)
        flat = [label for row in raw if row is not None for label in row]
        owner = [index for index, row in enumerate(raw) if row is not None for _ in row]
        values[owner, self.single.positions(flat, split)] = 1.0
        values[[index for index, row in enumerate(raw) if row is None]] = labels.NO_LABEL
        return values
