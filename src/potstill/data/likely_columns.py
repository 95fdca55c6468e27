"""The likeliest columns for text and label, by their values: labels of the teacher, and the longest texts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from potstill.data.arrow import table_of
from potstill.data.columns import LABEL_NAMES, is_string, named, others, written
from potstill.errors import DataError

_LOOKED_AT = 2_000
_CLEARLY_LONGER, _SENTENCE = 2.0, 20  # times, and characters
_MOST_CLASSES = 0.5


def with_likely_label(dataset: Dataset, asked: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The asked-for roles, and ``label`` where one column alone holds labels of the teacher, and none has a usual name.

    Args:
        dataset: Rows.
        asked: Role → column, as the user has fixed them.
        names: The teacher's labels.
    """
    free = others(dataset.features, set(map(str, asked.values())))
    if "label" in asked or not names:
        return dict(asked)
    fitting = [name for name in free if _holds(dataset, name, names)]
    usual = named(free, LABEL_NAMES)
    is_clear = len(fitting) == 1 and not any(not is_string(dataset.features[name]) for name in usual)
    return {**asked, "label": fitting[0]} if is_clear else dict(asked)


def without_short_columns(dataset: Dataset, taken: Sequence[str]) -> Dataset:
    """The rows without columns of categories that are clearly shorter than a column of sentences; else as they are."""
    lengths = {
        name: _mean_length(dataset, name) for name in others(dataset.features, set(taken)) if is_string(dataset.features[name])
    }
    longest = max(lengths, key=lambda name: lengths[name], default="")
    rest = [name for name in lengths if name != longest]
    if (
        not rest
        or lengths[longest] < _SENTENCE
        or any(lengths[longest] < _CLEARLY_LONGER * lengths[name] or not _is_category(dataset, name) for name in rest)
    ):
        return dataset
    return dataset.remove_columns(rest)


def with_settings(err: DataError, dataset: Dataset, asked: Mapping[str, Any], names: Sequence[str], content: str) -> DataError:
    """The error for columns that are not clear, with settings to paste for the likeliest text and label."""
    free = others(dataset.features, set(map(str, asked.values())))
    strings = sorted((name for name in free if is_string(dataset.features[name])), key=lambda name: -_mean_length(dataset, name))
    labels = [name for name in free if _holds(dataset, name, names)] or [name for name in free if _is_category(dataset, name)]
    label = asked.get("label") or next(iter(labels), None)
    text = asked.get(content) or next((name for name in strings if name != label), None)
    roles = {content: text, "label": label}
    settings = [
        f"--set data.columns.{role}={shlex.quote(written(column))}" for role, column in roles.items() if isinstance(column, str)
    ]
    return type(err)(err.given, err.accepted, f"{err.todo}; the likeliest: {' '.join(settings)}" if settings else err.todo)


def _values(dataset: Dataset, name: str) -> list[Any]:
    found = table_of(dataset, [name]).column(0).slice(0, _LOOKED_AT).to_pylist()
    return [value for value in found if value not in (None, "")]


def _holds(dataset: Dataset, name: str, names: Sequence[str]) -> bool:
    known = {label.strip().casefold() for label in names}
    values = {value.strip().casefold() for value in _values(dataset, name)} if is_string(dataset.features[name]) else set()
    return len(values) > 1 and values <= known


def _mean_length(dataset: Dataset, name: str) -> float:
    values = _values(dataset, name)
    return sum(map(len, values)) / max(1, len(values))


def _is_category(dataset: Dataset, name: str) -> bool:
    values = [value for value in _values(dataset, name) if isinstance(value, str | int | bool)]
    return 1 < len(set(values)) <= max(2, _MOST_CLASSES * len(values))
