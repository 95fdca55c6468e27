"""Tags: a label for every word of a row."""

# N rows, U words of a row

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset

from potstill.answers.class_labels import LabelMap, as_name, names_of
from potstill.data.arrow import table_of
from potstill.errors import DataError

_ENTITY = re.compile(r"(?:[BIES]-.+|O)")


class TagLabels:
    """Tags as names, numbers or ClassLabels: [N] lists of positions, empty for rows without."""

    is_optional = False

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[tuple[Any, ...] | None]:
        """A tuple of tags a row, as many as words; None where a row has none.

        Raises:
            DataError: The column holds no lists, or a row has more or fewer tags than words.
        """
        column = roles["label"]
        rows = table_of(dataset, [column]).column(0).to_pylist()
        names = _class_names(dataset.features[column])
        counts = [len(words or ()) for words in table_of(dataset, [roles["tokens"]]).column(0).to_pylist()]
        read = []
        for number, (row, count) in enumerate(zip(rows, counts), 1):
            if row is not None and not isinstance(row, list):
                raise DataError(
                    f"column {column!r} holds {type(row).__name__} in row {number} of the {split} split",
                    "a list of tags, one for each word",
                    "name another column: data.columns: {tags: …}",
                )
            if row is not None and len(row) != count:
                raise DataError(
                    f"row {number} of the {split} split has {count} words and {len(row)} tags",
                    "one tag for each word",
                    f"correct row {number}, or name other columns: data.columns: {{tokens: …, tags: …}}",
                )
            read.append(None if row is None else tuple(_plain(tag, names, column, split, number) for tag in row))
        return read

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """The names and what takes tags to them; of entity tags, B- and I- of every type and O are among the names."""
        found = set(chain.from_iterable(raw))
        names = _class_names(feature) or with_partners(names_of(found))
        if given is not None:
            return tuple(map(str, given)), TagMap(LabelMap(tuple(map(str, given)), found, given=True, subset=True))
        if len(names) < 2:
            raise DataError(
                f"all words of the training rows have the tag {next(iter(names), 'none')!r} (column {roles['label']!r})",
                "at least two tags",
                "name another column of tags: data.columns: {tags: …}",
            )
        return names, TagMap(LabelMap(names, found))

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Any = None) -> TagMap:
        """Tags → positions in known names, of which the rows may lack some."""
        found = {tag for row in raw if row is not None for tag in row}
        return TagMap(LabelMap(tuple(names), found, given=True, subset=True))

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """Empty lists."""
        return as_lists([()] * count)

    def strata(self, values: np.ndarray) -> np.ndarray:
        """One group: rows are drawn by chance alone."""
        return np.zeros(len(values), np.int64)

    def spread(self, content: pa.Table, values: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """Rows as they are."""
        return content, values


class TagMap:
    """Takes the tags of rows to positions.

    Args:
        mapping: Takes one tag to its position.
    """

    def __init__(self, mapping: LabelMap) -> None:
        self.mapping, self.notes = mapping, mapping.notes

    def positions(self, raw: Sequence[Any], split: str) -> np.ndarray:
        """[N] lists of positions; empty where a row has no tags.

        Raises:
            DataError: The split has tags that the names lack.
        """
        flat = self.mapping.positions([tag for row in raw if row is not None for tag in row], split)
        made, start = [], 0
        for row in raw:
            count = 0 if row is None else len(row)
            made.append(flat[start : start + count].tolist())
            start += count
        return as_lists(made)


def as_lists(rows: Iterable[Sequence[Any]]) -> np.ndarray:
    """[N] object array of sequences, also where all have one length."""
    rows = list(rows)
    made = np.empty(len(rows), object)
    made[:] = rows
    return made


def are_entities(names: Sequence[str]) -> bool:
    """Whether tags mark entities: O, and B-TYPE, I-TYPE (also E- and S-), at least one of these."""
    return all(_ENTITY.fullmatch(name) for name in names) and any(name != "O" for name in names)


def with_partners(names: Sequence[str]) -> tuple[str, ...]:
    """Entity tags with what belongs to them: B- and I- of every type, and O; other tags as they are."""
    if not are_entities(names):
        return tuple(names)
    types = {name.partition("-")[2] for name in names if name != "O"}
    return tuple(sorted({*names, "O", *(f"{mark}-{kind}" for kind in types for mark in "BI")}))


def _class_names(feature: Any) -> tuple[str, ...]:
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    return tuple(inner.names) if isinstance(inner, ClassLabel) and inner.names else ()


def _plain(tag: Any, names: Sequence[str], column: str, split: str, row: int) -> Any:
    if names and isinstance(tag, int) and 0 <= tag < len(names):
        return names[tag]
    if isinstance(tag, bool | int) or (isinstance(tag, str) and tag.strip()):
        return tag.strip() if isinstance(tag, str) else tag
    raise DataError(
        f"row {row} of the {split} split has the tag {as_name(tag)!r} (column {column!r})",
        "names or whole numbers from 0",
        f"correct row {row}",
    )
