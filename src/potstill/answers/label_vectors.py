"""Sets of labels that are written as vectors: a 0 or 1 for each label, in the order of the labels.

Shapes: N rows, C labels.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel

from potstill.contracts.answers import NO_LABEL, Mapped
from potstill.errors import DataError
from potstill.ground.counted import counted


class Vector(tuple[int, ...]):
    """A 0 or 1 for each label of a row."""


class PairOrVector(Vector):
    """``[0, 1]`` or ``[1, 0]`` in whole numbers: a vector of two labels, or the numbers of two of several labels."""


def as_vectors(values: Sequence[Any], inner: Any, column: str, split: str) -> list[Vector | None] | None:
    """The rows as vectors where they can be: lists of 0 and 1 (also booleans and floats) of one length, at least two.

    Args:
        values: A list a row, None where a row has no labels.
        inner: What the lists of the column hold.
        column: For messages.
        split: For messages.

    Returns:
        A vector a row, None where it has no labels; None where the rows are no vectors.

    Raises:
        DataError: Lists that can be nothing else than vectors, and have several lengths.
    """
    rows = [row for row in values if row is not None]
    flags = [item for row in rows if isinstance(row, list | tuple) for item in row]
    if not flags or not all(isinstance(row, list | tuple) for row in rows) or not all(_is_flag(item) for item in flags):
        return None
    are_numbers = not any(isinstance(item, bool | float) for item in flags)
    is_pair = are_numbers and not any(len(set(row)) < len(row) for row in rows)
    widths = {len(row) for row in rows}
    if is_pair and (len(widths) > 1 or max(widths) < 2 or _has_names(inner)):
        return None
    if len(widths) > 1:
        raise _several_widths(values, column, split)
    kind = PairOrVector if is_pair else Vector
    return [None if row is None else kind(int(item) for item in row) for row in values]


def width_of(raw: Sequence[Any], num_labels: int | None) -> int:
    """Places of the vectors of training rows; 0 where the rows are sets of labels.

    Args:
        raw: Rows as `as_vectors` gives them, or tuples of labels.
        num_labels: How many labels the teacher has; None where it is not known.

    Raises:
        DataError: Vectors of another width than the teacher has labels.
    """
    vector = next((row for row in raw if row is not None), None)
    if not isinstance(vector, Vector):
        return 0
    if num_labels is None or len(vector) == num_labels:
        return len(vector)
    if isinstance(vector, PairOrVector):
        return 0
    raise DataError(
        f"the data have vectors of {counted(len(vector), 'label')} a row, the teacher has {counted(num_labels, 'label')}",
        f"{num_labels} zeros and ones in each row, in the order of the teacher's labels; or lists of label names",
        "write the vectors for the teacher's labels, or take a teacher for these labels",
    )


def vector_map(width: int, notes: list[str]) -> Mapped:
    """Takes vectors to [N, C] float32, −100 in every place of a row without labels."""

    def positions(raw: Sequence[Any], split: str) -> np.ndarray:
        for number, row in enumerate(raw, 1):
            if row is not None and (not isinstance(row, Vector) or len(row) != width):
                raise DataError(
                    f"row {number} of the {split} split has the labels {list(row)},"
                    f" training has vectors of {width} zeros and ones",
                    "the same form in every split",
                    f"correct the {split} split",
                )
        return np.array([(NO_LABEL,) * width if row is None else row for row in raw], np.float32).reshape(len(raw), width)

    return Mapped(positions, notes)


def check_sets(raw: Sequence[Any], split: str) -> None:
    """Make sure that no row is a vector, where training has sets of labels.

    Raises:
        DataError: A row is.
    """
    odd = next((n for n, row in enumerate(raw, 1) if isinstance(row, Vector) and not isinstance(row, PairOrVector)), None)
    if odd is not None:
        raise DataError(
            f"row {odd} of the {split} split has a vector of zeros and ones, training has lists of labels",
            "the same form in every split",
            f"correct the {split} split",
        )


def places(row: Vector) -> tuple[int, ...]:
    """Which labels a vector names.

    Example:
        >>> places(Vector((1, 0, 1)))
        (0, 2)
    """
    return tuple(place for place, flag in enumerate(row) if flag)


def _is_flag(value: Any) -> bool:
    return isinstance(value, numbers.Real) and value in (0, 1)


def _has_names(inner: Any) -> bool:
    return isinstance(inner, ClassLabel) and bool(inner.names)


def _several_widths(values: Sequence[Any], column: str, split: str) -> DataError:
    first = next(row for row in values if row is not None)
    number, odd = next((n, row) for n, row in enumerate(values, 1) if row is not None and len(row) != len(first))
    return DataError(
        f"column {column!r} holds vectors of 0 and 1 of several lengths: {len(first)} places, and {len(odd)} in row {number}"
        f" of the {split} split",
        "a 0 or 1 for each label, as many in every row; or lists of label names or numbers, each once",
        f"correct row {number}",
    )
