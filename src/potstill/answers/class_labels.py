"""Labels of any kind (names, integers, booleans, ClassLabel) → positions in one list of label names."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from potstill.contracts.answers import NO_LABEL
from potstill.data.arrow import table_of
from potstill.errors import DataError
from potstill.ground.counted import counted

_PLACEHOLDER = re.compile(r"label_\d+", re.IGNORECASE)
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_WHOLE = re.compile(r"(0|-?[1-9][0-9]*)\.0")  # how tables with gaps write whole numbers
_LARGEST_FLOAT = 2**53
_SHOWN_NAMES = 8


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether names are ``LABEL_0``, ``LABEL_1`` …, which say nothing about what the labels mean."""
    return all(_PLACEHOLDER.fullmatch(str(name)) for name in names)


def raw_labels(dataset: Dataset, column: str, split: str) -> list[str | int | bool | None]:
    """The labels of a split as written: strings, integers, or None where a row has none (also ``""``, NaN, −100, and negative
    ClassLabel values, which is how hub data sets mark hidden labels).

    Raises:
        DataError: The column holds lists, infinite or fractional numbers.
    """
    feature = dataset.features[column]
    values = table_of(dataset, [column]).column(0)
    if values.num_chunks == 0:
        return []
    try:
        encoded = values.dictionary_encode().unify_dictionaries()
    except pa.ArrowNotImplementedError:
        return [_plain(value, column, split, row) for row, value in enumerate(values.to_pylist(), 1)]
    codes = np.concatenate([pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks])
    found, first = np.unique(codes, return_index=True)
    rows = dict(zip(found.tolist(), (first + 1).tolist()))
    distinct = encoded.chunk(0).dictionary.to_pylist()
    named = isinstance(feature, ClassLabel) and bool(feature.names)
    plain: list[str | int | bool | None] = [
        _named(feature, value) if named else _plain(value, column, split, rows.get(code, 1))
        for code, value in enumerate(distinct)
    ]
    plain.append(None)  # of the code −1
    return [plain[code] for code in codes]


def _named(feature: ClassLabel, value: int) -> str | None:
    return feature.int2str(value) if value is not None and value >= 0 else None


def _plain(value: Any, column: str, split: str, row: int) -> str | int | bool | None:
    if is_missing(value) or isinstance(value, bool | int):
        return None if is_missing(value) else value
    if isinstance(value, float):
        if value.is_integer() and abs(value) <= _LARGEST_FLOAT:
            return int(value)
        whole = "beyond 2^53, where a float no longer tells whole numbers apart" if value.is_integer() else "not a whole number"
        kind = "infinite" if math.isinf(value) else whole
        raise DataError(
            f"label {value} in row {row} of the {split} split (column {column!r}) is {kind}",
            "class names or whole numbers, one a row",
            "correct the row, or name another label column: data.columns: {label: …}",
        )
    if isinstance(value, str):
        return value.strip()
    raise DataError(
        f"column {column!r} holds a {type(value).__name__} in row {row} of the {split} split",
        "one class a row (a name, a whole number, true or false)",
        "choose a column with one class a row: data.columns: {label: …}; for several labels a row set task: multi-label",
    )


def is_missing(value: Any) -> bool:
    """Whether a value says that there is no label: nothing, NaN, an empty text, or −100, which losses leave out."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan", str(NO_LABEL))
    return (
        value is None or (isinstance(value, float) and math.isnan(value)) or (value == NO_LABEL and not isinstance(value, bool))
    )


def names_of(labels: Iterable[str | int | bool], feature: object = None) -> tuple[str, ...]:
    """The label names in their order: that of a ClassLabel, else false before true, numbers by size, or names by alphabet.

    Names made of digits are numbers only where all of them are whole numbers in their plain form: ``001`` is a name.
    """
    if isinstance(feature, ClassLabel) and feature.names:
        return tuple(feature.names)
    found = set(labels)
    if all(isinstance(label, bool) for label in found):
        return tuple(str(label).lower() for label in sorted(found))
    if all(_is_number(label) for label in found):
        numbers = sorted({int(label) for label in found})
        return tuple(str(number) for number in numbers)
    return tuple(sorted({as_name(label) for label in found}))


def as_name(label: object) -> str:
    """A label as a name: booleans as ``true`` and ``false``."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def _is_number(label: object) -> bool:
    """Whether a label is a whole number, or text that is one as Python writes it: no sign, zero or digit more."""
    return isinstance(label, int) or (isinstance(label, str) and _INTEGER.fullmatch(label) is not None)


def _plain_number(label: str | int | bool) -> str | int | bool:
    """``"2.0"`` as ``"2"``, any other label as it is."""
    return label.removesuffix(".0") if isinstance(label, str) and _WHOLE.fullmatch(label) else label


class LabelMap:
    """Takes labels as written to positions in `names`.

    Args:
        names: The label names in the order wanted.
        found: The labels of the training split, as `raw_labels` gives them.
        given: Whether `names` were asked for (a teacher's ``id2label``) rather than found in the data.
        subset: Whether the data may lack some of the given names, as a file for evaluation may.

    Raises:
        DataError: The given names and those in the data are not the same set; names both sides.
    """

    def __init__(
        self, names: Sequence[str], found: Iterable[str | int | bool], *, given: bool = False, subset: bool = False
    ) -> None:
        self.names = tuple(names)
        self.notes: list[str] = []
        labels = set(found)
        plain = {_plain_number(label) for label in labels}
        if all(as_name(label) in self.names for label in plain):
            labels = plain
        self.by_position = given and self._read_as_positions(labels)
        self._positions = {name: i for i, name in enumerate(self.names)}
        if given and not self.by_position:
            self._align({as_name(label) for label in labels}, subset)

    def _read_as_positions(self, labels: set[str | int | bool]) -> bool:
        plain = {_plain_number(label) for label in labels}
        if not labels or not all(_is_number(label) for label in plain) or all(as_name(label) in self.names for label in labels):
            return False
        numbers = {int(label) for label in plain}
        if min(numbers) < 0 or max(numbers) >= len(self.names):
            raise DataError(
                f"the data have the labels {listed(sorted(numbers))}, "
                f"the teacher has {counted(len(self.names), 'label')} ({listed(self.names)})",
                f"whole numbers from 0 to {len(self.names) - 1}, or the teacher's label names",
                f"say which is which: {label_map_setting({str(number) for number in numbers}, self.names)}",
            )
        if not are_placeholders(self.names):
            self.notes.append(f"integer labels are read as positions in the teacher's labels: {listed(self.names)}")
        return True

    def _align(self, found: set[str], subset: bool) -> None:
        if found - set(self.names):
            folded = {name.strip().casefold(): i for i, name in enumerate(self.names)}
            if len(folded) == len(self.names) and all(name.casefold() in folded for name in found):
                self._positions |= {name: folded[name.casefold()] for name in found}
                self.notes.append("label names of data and teacher differ in capital letters only and are taken as the same")
                found = {self.names[self._positions[name]] for name in found}
        if found == set(self.names) or (subset and found <= set(self.names)):
            return
        if are_placeholders(self.names) and len(found) == len(self.names):
            raise DataError(
                f"the teacher's labels have no names ({listed(self.names)}), "
                f"and the data name them {listed(sorted(found))}: the order is unknown",
                "a teacher whose id2label names its labels, or integer labels in the teacher's order",
                'write the names into the teacher\'s config.json ("id2label"), or the labels as integers, or say which is which:'
                f" {label_map_setting(found, self.names)}",
            )
        raise DataError(
            _difference(set(found), self.names), "data and teacher with the same set of labels", _remedy(set(found), self.names)
        )

    def position(self, label: str | int | bool) -> int | None:
        """The position of a label, or None where no name fits."""
        plain = _plain_number(label)
        if self.by_position:
            number = int(plain) if _is_number(plain) else -1
            return number if 0 <= number < len(self.names) else None
        found = self._positions.get(as_name(label))
        return self._positions.get(as_name(plain)) if found is None else found

    def positions(self, labels: Sequence[Any], split: str) -> np.ndarray:
        """Positions [N] int64 of the labels of a split; `NO_LABEL` where a label is None.

        Raises:
            DataError: The split has labels that `names` lacks.
        """
        known = {label: self.position(label) for label in set(labels) if label is not None}
        unknown = sorted({as_name(label) for label, position in known.items() if position is None})
        if unknown:
            count = sum(1 for label in labels if label is not None and known[label] is None)
            raise DataError(
                f"the {split} split has labels that training lacks: {listed(unknown)} ({count} of {len(labels)} rows)",
                f"the labels {listed(self.names)}",
                f"correct them, take these rows out of the {split} split, or add such rows to the training data",
            )
        return np.fromiter((NO_LABEL if label is None else known[label] for label in labels), np.int64, len(labels))


def _difference(found: set[str], names: Sequence[str]) -> str:
    sides = [f"data {listed(sorted(found))}", f"teacher {listed(names)}"]
    for side, extra in (
        ("only in the data", sorted(found - set(names))),
        ("only in the teacher", [n for n in names if n not in found]),
    ):
        if extra:
            sides.append(f"{side}: {listed(extra)}")
    return "data and teacher have different labels: " + "; ".join(sides)


def _remedy(found: set[str], names: Sequence[str]) -> str:
    if found < set(names):
        return "add rows of the missing labels, or take a teacher for these labels"
    setting = label_map_setting(found, names)
    return f"say which is which (check each pair): {setting}; or rename or remove these rows, or take a teacher for these labels"


def label_map_setting(found: Collection[str], names: Sequence[str]) -> str:
    """The setting that takes labels of the data to the teacher's: ``LABEL_1`` and ``1`` by their number, others in order.

    Example:
        >>> print(label_map_setting({"LABEL_0", "LABEL_1"}, ["negative", "positive"]))
        --set data.label_map='{"LABEL_0": "negative", "LABEL_1": "positive"}'
    """
    foreign = sorted(set(found) - set(names), key=lambda name: (len(name), name))
    free = [name for name in names if name not in found] or list(names)
    numbers = [
        int(name.rpartition("_")[2]) if _PLACEHOLDER.fullmatch(name) or _INTEGER.fullmatch(name) else -1 for name in foreign
    ]
    by_number = all(0 <= number < len(names) for number in numbers)
    order = [names[number] for number in numbers] if by_number else [free[min(i, len(free) - 1)] for i in range(len(foreign))]
    return f"--set data.label_map={shlex.quote(json.dumps(dict(zip(foreign, order)), ensure_ascii=False))}"


def renamed(raw: Sequence[Any], label_map: Mapping[str, str]) -> list[Any]:
    """Labels, or tuples of labels, with the names that `label_map` gives; others stay as they are.

    Raises:
        DataError: No row has any of the labels that are to be renamed.
    """
    labels = {label for row in raw for label in (row if isinstance(row, tuple) else (row,)) if label is not None}
    # YAML reads yes, on and true as one value
    same = {"true": ("yes", "on"), "false": ("no", "off")}
    known = {as_name(label): label for label in labels}
    wanted = dict(label_map)
    for key, others in same.items():
        if key in wanted and key not in known:
            wanted |= {name: wanted[key] for name in known if name.lower() in others}
    if known and not wanted.keys() & known.keys() and not set(known) <= set(wanted.values()):
        raise DataError(
            f"data.label_map renames {listed(label_map)}, and the data have none of these labels",
            f"labels of the data: {listed(sorted(known))}",
            "correct the left sides of data.label_map",
        )
    new = {label: wanted.get(as_name(label), label) for label in labels} | {None: None}
    return [tuple(new[label] for label in row) if isinstance(row, tuple) else new[row] for row in raw]


def listed(items: Iterable[object]) -> str:
    """The first items, quoted where they are names, and how many more there are."""
    shown = [repr(item) if isinstance(item, str) else str(item) for item in items]
    more = f" and {len(shown) - _SHOWN_NAMES} more" if len(shown) > _SHOWN_NAMES else ""
    return ", ".join(shown[:_SHOWN_NAMES]) + more
