"""Numbers: one for a row or several, in the units of the data.

Shapes: N rows, B batch, K numbers of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn

from potstill.answers.base import RowAnswers, by_name, known_means, known_numbers, label_columns, unknown
from potstill.answers.class_labels import are_placeholders, listed
from potstill.answers.correlations import concordance, concordance_of, correlation, ranks, second_moments
from potstill.answers.judging import Closeness, KeptRows, Worst, furthest, known_rows, labelled
from potstill.answers.label_columns import find_numbers
from potstill.contracts.answers import NO_LABEL, Answers, Judge, Mapped, Predictions
from potstill.data.arrow import table_of
from potstill.errors import DataError
from potstill.ground.counted import counted

_BINS = 10
_LARGEST = float(np.finfo(np.float32).max)


class Numbers(RowAnswers):
    """One number a row or several; labels become [N, K] float32.

    Args:
        scale: Standard deviation of each number over the training rows [K]; None where it is not known.
    """

    kind = reported = "numbers"
    noun = "numbers"
    metric = "concordance"
    problem_type: str | None = "regression"
    has_uncertainty = False
    find_columns = staticmethod(find_numbers)

    def __init__(self, scale: Sequence[float] | None = None) -> None:
        self.scale = scale
        unit = {} if scale is None else {"scale": scale}
        self.from_labels: Mapping[str, Any] | None = {"name": "regression", "target": "labels", **unit}
        self.from_teacher: tuple[Mapping[str, Any], ...] = ({"name": "regression", **unit},)

    def scaled(self, labels: np.ndarray | None) -> Answers:
        """Squared errors in units of the standard deviation of `labels` [N, K]."""
        found = Numbers(None if labels is None else spread_of(labels))
        found.label_names = self.label_names
        return found

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
        """A tuple a row; see `read_numbers`."""
        return read_numbers(dataset, label_columns(roles), split)

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """The names of the numbers, in the teacher's order where it has names, and what takes rows to arrays.

        Raises:
            DataError: Numbers that never change, or another number of them than the teacher's.
        """
        rows = [row for row in raw if row is not None]
        width = len(rows[0])
        named = [role.removeprefix("label:") for role in roles if role.startswith("label:")]
        column = roles.get("label", "label")
        alone = (column,) if width == 1 else tuple(f"{column}_{k + 1}" for k in range(width))
        own = tuple(named) if len(named) == width else alone
        for index, name in enumerate(own):
            if len({row[index] for row in rows}) < 2:
                raise DataError(
                    f"all {len(rows)} training rows have the {name} {rows[0][index]:g}",
                    "numbers that differ",
                    "add rows with other values, or name another label column: data.columns: {label: …}",
                )
        if given is None or len(given) == 1 == len(own) or (are_placeholders(given) and len(given) == len(own)):
            return own, number_map(width)
        names = tuple(str(name) for name in given)
        if set(names) != set(own):
            raise DataError(
                f"the data have {len(own)} numbers a row ({listed(own)}), the teacher predicts {len(names)} ({listed(names)})",
                "the same numbers on both sides",
                "name the columns of the teacher's numbers: data.columns: {label: [column, column]}, or take another teacher",
            )
        return names, number_map(width, [own.index(name) for name in names])

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Mapping[str, str]) -> Mapped:
        """Takes numbers to arrays; columns are brought into the order of the names."""
        columns = [role.removeprefix("label:") for role in roles if role.startswith("label:")]
        is_named = len(columns) > 1 and set(columns) == set(names)
        return number_map(len(names), [columns.index(name) for name in names] if is_named else None)

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """NaN in every place."""
        return np.full((count, len(names)), np.nan, np.float32)

    def named(self, found: Predictions, content: pa.Table, rows: Dataset) -> pa.Table:
        """``prediction``: the number; of several each by its name."""
        width = found.logits.shape[1]
        if width == 1:
            return pa.table({"prediction": pa.array(found.logits[:, 0], pa.float32())})
        return pa.table({"prediction": by_name(found.logits, self.label_names or [str(k + 1) for k in range(width)])})

    def strata(self, values: np.ndarray) -> np.ndarray:
        """Tenths of the first number, by rank; one group where there is none."""
        first = values[:, 0]
        known = first[~np.isnan(first)]
        if not len(known):
            return np.zeros(len(values), np.int64)
        edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1]))
        return np.searchsorted(edges, first).astype(np.int64)

    def start_head(self, head: nn.Module, labels: np.ndarray) -> None:
        """Bring a new head into the units of the labels: their mean as bias, weights times their standard deviation.

        Training then sees a problem of zero mean and unit spread, whatever the units are.
        """
        if not isinstance(head, nn.Linear):
            return
        with torch.no_grad():
            head.weight.mul_(torch.tensor(spread_of(labels))[:, None])
            head.bias.copy_(torch.tensor(np.nanmean(labels.astype(np.float64), axis=0)))

    def uncertainty(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Numbers do not say how sure they are."""
        return unknown(logits)

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """[B] the mean squared difference."""
        return (teacher - student).square().mean(-1)

    def label_distance(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B] the mean squared difference over the labels that are known."""
        if (found := known_numbers(logits, labels)) is None:
            return unknown(logits)
        return known_means((logits - found[0]).square(), found[1])

    def closeness(self, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
        """See `number_closeness`."""
        return number_closeness(student, teacher)

    def judge(self) -> Judge:
        """See `NumberJudge`."""
        return NumberJudge()


class NumberJudge(KeptRows):
    """Judges predicted numbers."""

    def quality(self) -> dict[str, float]:
        """See `number_quality`."""
        return number_quality(self["logits"], self["labels"])

    def closeness(self) -> Closeness:
        """Pearson correlation with the teacher's numbers and root mean squared difference, in the data's units."""
        return Closeness(others=number_closeness(self["logits"], self["teacher"]))

    def worst(self, names: Sequence[str], count: int) -> list[Worst]:
        """By how much further the student is from the truth, in standard deviations of the labels, summed over numbers."""
        known = known_rows(self["labels"])
        labels = self["labels"][known].astype(np.float64)
        student, teacher = self["logits"][known], self["teacher"][known]
        unit = np.where(labels.std(0) > 0, labels.std(0), 1.0)
        behind = ((np.abs(student - labels) / unit) - (np.abs(teacher - labels) / unit)).sum(1)
        return [
            Worst(int(self["row_ids"][known][at]), _shown(labels[at]), _shown(teacher[at]), _shown(student[at]))
            for at in furthest(behind, count)
        ]

    def row_sums(self, metric: str) -> tuple[np.ndarray, Callable[[np.ndarray], float]] | None:
        """Of concordance: moments around the mean of the labels."""
        if metric != "concordance":
            return None
        known = known_rows(self["labels"])
        labels = self["labels"][known].astype(np.float64)
        return second_moments(self["logits"][known] - labels.mean(0), labels - labels.mean(0)), concordance_of


def spread_of(labels: np.ndarray) -> list[float]:
    """The standard deviation of each number [K]; 1 where it never changes."""
    spread = np.nanstd(labels.astype(np.float64), axis=0)
    return [float(value) if value > 0 else 1.0 for value in spread]


def _shown(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def number_quality(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures of predicted numbers by labels [N, K], rows of NaN left out; correlations and R² are means over numbers.

    Concordance (see `concordance`), Pearson and Spearman correlation (0 where a side never changes),
    R² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)², mean squared and mean absolute error in the units of the labels.

    Raises:
        ModelError: Answers that are not finite, or no row with labels.
    """
    values, labels = labelled(values, labels)
    values, labels = values.astype(np.float64), labels.astype(np.float64)
    spread = np.square(labels - labels.mean(0)).sum(0)
    errors = np.square(values - labels).sum(0)
    r2 = [1 - error / whole if whole > 0 else 0.0 for error, whole in zip(errors, spread)]
    return {
        "concordance": float(np.mean([concordance(own, true) for own, true in zip(values.T, labels.T)])),
        "pearson": float(np.mean([correlation(own, true) for own, true in zip(values.T, labels.T)])),
        "spearman": float(np.mean([correlation(ranks(own), ranks(true)) for own, true in zip(values.T, labels.T)])),
        "r2": float(np.mean(r2)),
        "mse": float(np.square(values - labels).mean()),
        "mae": float(np.abs(values - labels).mean()),
    }


def number_closeness(student_values: np.ndarray, teacher_values: np.ndarray) -> dict[str, float]:
    """Of [N, K]: ``teacher_pearson``, correlation with the teacher's numbers; ``teacher_rmse``, root mean squared difference."""
    student, teacher = np.asarray(student_values, np.float64), np.asarray(teacher_values, np.float64)
    return {
        "teacher_pearson": float(np.mean([correlation(own, other) for own, other in zip(student.T, teacher.T)])),
        "teacher_rmse": float(np.sqrt(np.square(student - teacher).mean())),
    }


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
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError) as err:
        raise DataError(
            f"column {column!r} has {value!r} in row {row} of the {split} split",
            "a number in every row, with a decimal point",
            "correct the row; for names as labels set task: text-classification",
        ) from err
    if math.isnan(number):
        return None
    if abs(number) > _LARGEST or number == NO_LABEL:
        large = "infinite" if math.isinf(number) else "beyond what float32 holds (3.4e38)"
        kind = large if abs(number) > _LARGEST else "the mark of a row without a label"
        raise DataError(
            f"column {column!r} has {value!r} in row {row} of the {split} split, which is {kind}",
            f"finite numbers below 3.4e38, other than {NO_LABEL}",
            "correct the row, or shift the scale by a constant or a factor",
        )
    return number


def number_map(width: int, order: Sequence[int] | None = None) -> Mapped:
    """Takes numbers to arrays [N, K] float32, NaN in every place of a row without a label.

    Args:
        width: Numbers of a row.
        order: Which of the row's numbers comes first, second …; None as they are.
    """

    def positions(raw: Sequence[Any], split: str) -> np.ndarray:
        widths = {len(row) for row in raw if row is not None} - {width}
        if widths:
            raise DataError(
                f"the {split} split has {counted(widths.pop(), 'number')} a row, training has {width}",
                "the same on both",
                "correct it",
            )
        nothing = (math.nan,) * width
        values = np.array([nothing if row is None else row for row in raw], np.float32).reshape(len(raw), width)
        return values if order is None else values[:, order]

    return Mapped(positions, [])
