"""Numbers as labels, in one column or several, or in lists → [N, K] float32, NaN where there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from potstill.answers import class_labels as labels
from potstill.data.arrow import table_of
from potstill.errors import DataError


def read_numbers(dataset: Dataset, columns: Sequence[str], split: str) -> list[Any]:
    """The numbers of each row as a tuple, None where any of them is missing (empty or NaN).

    Args:
        dataset: Rows.
        columns: Columns of numbers, or one column of lists of numbers.
        split: For messages.

    Raises:
        DataError: A value that is no finite number, or −100, which marks rows without a label.
    """
    table = table_of(dataset, list(columns))
    parts = [_numbers(table.column(index).to_pylist(), column, split) for index, column in enumerate(columns)]
    return [
        None if any(number is None for value in row for number in value) else tuple(number for value in row for number in value)
        for row in zip(*parts)
    ]


def _numbers(values: Sequence[Any], column: str, split: str) -> list[tuple[float | None, ...]]:
    rows = []
    for row, value in enumerate(values, 1):
        items = value if isinstance(value, list | tuple) else [value]
        rows.append(tuple(_number(item, column, split, row) for item in items))
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise DataError(
            f"column {column!r} holds lists of {min(widths)} to {max(widths)} numbers in the {split} split",
            "as many numbers in every row",
            "fill up the shorter lists, or name another label column: data.columns: {label: …}",
        )
    return rows


def _number(value: Any, column: str, split: str, row: int) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan")):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as err:
        raise DataError(
            f"column {column!r} has {value!r} in row {row} of the {split} split",
            "a number in every row, with a decimal point",
            "correct the row; for names as labels set task: text-classification",
        ) from err
    if math.isnan(number):
        return None
    if math.isinf(number) or number == labels.NO_LABEL:
        kind = "infinite" if math.isinf(number) else "the mark of a row without a label"
        raise DataError(
            f"column {column!r} has {value!r} in row {row} of the {split} split, which is {kind}",
            f"finite numbers other than {labels.NO_LABEL}",
            "correct the row, or shift the scale by a constant",
        )
    return number


def number_order(raw: Sequence[Any], roles: Mapping[str, str], given: Sequence[str] | None) -> tuple[tuple[str, ...], NumberMap]:
    """The names of the numbers, in the teacher's order where it has names, and what takes rows to arrays.

    Raises:
        DataError: Numbers that never change, or another number of them than the teacher's.
    """
    rows = [row for row in raw if row is not None]
    width = len(rows[0])
    named = [role.removeprefix("label:") for role in roles if role.startswith("label:")]
    column = roles.get("label", "label")
    own = tuple(named) if len(named) == width else (column,) if width == 1 else tuple(f"{column}_{k + 1}" for k in range(width))
    for index, name in enumerate(own):
        if len({row[index] for row in rows}) < 2:
            raise DataError(
                f"all {len(rows)} training rows have the {name} {rows[0][index]:g}",
                "numbers that differ",
                "add rows with other values, or name another label column: data.columns: {label: …}",
            )
    if given is None or len(given) == 1 == len(own) or (labels.are_placeholders(given) and len(given) == len(own)):
        return own, NumberMap(width)
    names = tuple(str(name) for name in given)
    if set(names) != set(own):
        raise DataError(
            f"the data have {len(own)} numbers a row ({labels.listed(own)}), the teacher predicts {len(names)}"
            f" ({labels.listed(names)})",
            "the same numbers on both sides",
            "name the columns of the teacher's numbers: data.columns: {label: [column, column]}, or take another teacher",
        )
    return names, NumberMap(width, [own.index(name) for name in names])


class NumberMap:
    """Takes numbers to arrays.

    Args:
        width: Numbers of a row.
        order: Which of the row's numbers comes first, second …; None as they are.
    """

    def __init__(self, width: int, order: Sequence[int] | None = None) -> None:
        self.width, self.order, self.notes = width, list(range(width)) if order is None else list(order), list[str]()

    def positions(self, raw: Sequence[Any], split: str) -> np.ndarray:
        """[N, K] float32; NaN in every place of a row without a label.

        Raises:
            DataError: Another number of numbers than training rows have.
        """
        widths = {len(row) for row in raw if row is not None} - {self.width}
        if widths:
            raise DataError(
                f"the {split} split has {widths.pop()} numbers a row, training has {self.width}", "the same on both", "correct it"
            )
        nothing = (math.nan,) * self.width
        values = np.array([nothing if row is None else row for row in raw], np.float32).reshape(len(raw), self.width)
        return values[:, self.order]
