"""Sets of labels: any number of labels for a row, each a yes or a no of its own, decided at a probability of one half.

Shapes: N rows, B batch, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset
from torch import Tensor

from potstill.answers.base import RowAnswers, by_name, known_means, known_numbers, means_of_units, unknown
from potstill.answers.class_labels import LabelMap, are_placeholders, is_missing, listed, names_of, renamed
from potstill.answers.fidelity import Reliability, reliability_of
from potstill.answers.judging import Closeness, KeptRows, Worst, class_figures, furthest, known_rows, labelled, listed_labels
from potstill.answers.label_columns import find_label_sets, inner_feature
from potstill.answers.label_vectors import Vector, as_vectors, check_sets, places, vector_map, width_of
from potstill.contracts.answers import NO_LABEL, Judge, Mapped, Predictions
from potstill.data.arrow import table_of
from potstill.data.text_encoding import shorten
from potstill.errors import DataError

DELIMITERS = ("|", ";", ",")
BRACKETS = ("[]", "()", "{}")
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


class LabelSets(RowAnswers):
    """Any number of labels a row; they become [N, C] float32 of 0 and 1."""

    kind = reported = "labels"
    noun = "several labels at once"
    metric = "micro_f1"
    problem_type = "multi_label_classification"
    from_labels: Mapping[str, Any] | None = {"name": "bce", "target": "labels"}
    from_teacher: tuple[Mapping[str, Any], ...] = ({"name": "bce"},)
    find_columns = staticmethod(find_label_sets)

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
        """The labels of each row as a tuple, empty where none applies, None where the row has no labels at all.

        Rows that are all lists of 0 and 1 of one length may be vectors, one place for each label; they come as `Vector`.

        Args:
            dataset: Rows.
            roles: ``label`` → a column of lists, or of strings with the labels between ``|``, ``;`` or ``,``; or ``label:NAME`` →
                a column of 0 and 1 for each label.
            split: For messages.

        Raises:
            DataError: A value that is neither, or vectors of several lengths.
        """
        named = {role.removeprefix("label:"): column for role, column in roles.items() if role.startswith("label:")}
        if named:
            return _from_columns(dataset, named, split)
        column = roles["label"]
        values = table_of(dataset, [column]).column(0).to_pylist()
        inner = inner_feature(dataset.features[column])
        if (vectors := as_vectors(values, inner, column, split)) is not None:
            return vectors
        delimiter = None if inner is not None else delimiter_of(values)
        return [_as_set(value, inner, delimiter, column, split, row) for row, value in enumerate(values, 1)]

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """The labels in their order and what takes rows to it.

        Raises:
            DataError: Every row has the same labels, or labels that the teacher lacks.
        """
        columns = tuple(role.removeprefix("label:") for role in roles if role.startswith("label:"))
        if width := width_of(raw, None if given is None else len(given)):
            own = getattr(inner_feature(feature), "names", None) or map(str, range(width))
            self._refuse_alike(raw, given, ())
            return tuple(map(str, own if given is None else given)), vector_map(width, [])
        found = {label for row in raw if row is not None for label in row}
        own = columns or names_of(found, inner_feature(feature))
        self._refuse_alike(raw, given, own)
        if given is None:
            return own, _of_sets(LabelMap(own, found))
        if are_placeholders(given) and len(own) == len(given) and not set(own) <= set(given):
            mapping = _of_sets(LabelMap(own, found))
            mapping.notes.append("the teacher's labels have no names; those of the data are taken, in the data's order")
            return own, mapping
        names = tuple(str(name) for name in given)
        return names, _of_sets(LabelMap(names, found, given=True, subset=True))

    def _refuse_alike(self, raw: Sequence[Any], given: Sequence[str] | None, own: Sequence[str]) -> None:
        if given is None and len({frozenset(as_set(row)) for row in raw if row is not None}) < 2:
            raise DataError(
                f"all {len(raw)} training rows have the same labels ({listed(own) if own else 'none'})",
                "rows whose labels differ",
                "add rows with other labels, or name another label column: data.columns: {label: …}",
            )

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Mapping[str, str]) -> Mapped:
        """Labels → places among known names, of which the rows may lack some."""
        if width := width_of(raw, len(names)):
            return vector_map(width, [])
        found = {label for row in raw if row is not None for label in row}
        return _of_sets(LabelMap(names, found, given=True, subset=True))

    def renamed(self, raw: Sequence[Any], label_map: Mapping[str, str]) -> list[Any]:
        """Sets with other names; the labels of a vector are the numbers of its places."""
        sets = [None if row is None else tuple(as_set(row)) for row in raw]
        return [None if row is None else tuple(dict.fromkeys(row)) for row in renamed(sets, label_map)]

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """−100 in every place."""
        return np.full((count, len(names)), NO_LABEL, np.float32)

    def strata(self, values: np.ndarray) -> np.ndarray:
        """The rarest label of each row, so that rare ones keep their share; rows without any are a group of their own."""
        order = np.argsort(values.sum(0), kind="stable")
        sorted_labels = values[:, order] > 0
        return np.where(sorted_labels.any(1), order[sorted_labels.argmax(1)], values.shape[1]).astype(np.int64)

    def uncertainty(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B] the mean over labels [B, C] of the entropy of a yes or no, in bits."""
        p = logits.detach().float().sigmoid()
        return means_of_units((_entropy(p) / math.log(2)).mean(-1), mask).clamp(0.0, 1.0)

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """[B] the mean over labels of the KL of a yes or no, in nats."""
        p = teacher.sigmoid()
        return (F.binary_cross_entropy_with_logits(student, p, reduction="none") - _entropy(p)).clamp(min=0).mean(-1)

    def label_distance(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B] the mean binary cross-entropy over the labels that are known."""
        if (found := known_numbers(logits, labels)) is None:
            return unknown(logits)
        return known_means(F.binary_cross_entropy_with_logits(logits, found[0], reduction="none"), found[1])

    def closeness(self, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
        """See `label_closeness`."""
        return label_closeness(student, teacher)

    def named(self, found: Predictions, content: pa.Table, rows: Dataset) -> pa.Table:
        """``prediction``, the labels with a probability above one half, and the ``probabilities`` of all labels."""
        names = [[self.label_names[index] for index in np.flatnonzero(row).tolist()] for row in found.logits > 0]
        chances = by_name(probabilities(found.logits), self.label_names)
        return pa.table({"prediction": pa.array(names, pa.list_(pa.string())), "probabilities": chances})

    def judge(self) -> Judge:
        """See `LabelSetJudge`."""
        return LabelSetJudge()


class LabelSetJudge(KeptRows):
    """Judges sets of labels: each label of each row is one decision."""

    def quality(self) -> dict[str, float]:
        """See `label_set_quality`."""
        return label_set_quality(self["logits"], self["labels"])

    def per_class(self) -> list[dict[str, Any]]:
        """For each label: ``label``, ``support``, ``precision``, ``recall`` and ``f1``; None where no row counts for it."""
        return class_figures(label_counts(*_decisions(self["logits"], self["labels"]), 0))

    def closeness(self) -> Closeness:
        """Share of equal decisions; the same weighted by the teacher's probability of the truth; mean KL over decisions."""
        found = label_closeness(self["logits"], self["teacher"])
        return Closeness(found["agreement"], self._weighted_agreement(), found["teacher_kl"])

    def calibration(self) -> Reliability:
        """Of decisions: how often the likelier of yes and no is right."""
        known = known_rows(self["labels"])
        chance = probabilities(self["logits"][known]).ravel()
        return reliability_of(np.maximum(chance, 1 - chance), (chance > 0.5) == (self["labels"][known].ravel() > 0.5))

    def worst(self, names: Sequence[str], count: int) -> list[Worst]:
        """By how much less probability the student gives to the true decisions, mean over labels."""
        known = np.flatnonzero(known_rows(self["labels"]))
        true = self["labels"][known] > 0.5
        own, other = (probabilities(self[name][known]) for name in ("logits", "teacher"))
        ours, theirs = (np.where(true, chance, 1 - chance).mean(1) for chance in (own, other))
        return [
            Worst(
                int(self["row_ids"][known[at]]),
                listed_labels(true[at], names),
                listed_labels(other[at] > 0.5, names),
                listed_labels(own[at] > 0.5, names),
                float(theirs[at]),
                float(ours[at]),
            )
            for at in furthest(theirs - ours, count)
        ]

    def row_sums(self, metric: str) -> tuple[np.ndarray, Callable[[np.ndarray], float]] | None:
        """Of micro F1: true positives, false positives and false negatives of each row."""
        if metric != "micro_f1":
            return None
        known = known_rows(self["labels"])
        counts = label_counts(self["logits"][known] > 0, self["labels"][known] > 0.5, 1)
        return counts.astype(np.float64), _micro_f1

    def _weighted_agreement(self) -> float | None:
        known = known_rows(self["labels"])
        true, chance = self["labels"][known] > 0.5, probabilities(self["teacher"][known])
        weights = np.where(true, chance, 1 - chance)
        same = (self["logits"][known] > 0) == (self["teacher"][known] > 0)
        return float((weights * same).sum() / weights.sum()) if weights.sum() > 0 else None


def label_set_quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures of logits by labels of 0 and 1 [N, C], rows of −100 left out; a logit above 0 decides for the label.

    Micro F1 is 2 TP / (2 TP + FP + FN) over all rows and labels; macro F1 the plain mean of the F1 of every label that occurs
    among labels or answers; subset accuracy the share of rows with every label right.

    Raises:
        ModelError: Logits that are not finite, or no row with labels.

    Example:
        >>> label_set_quality(np.array([[2.0, -1.0], [1.0, 3.0]]), np.array([[1, 0], [0, 1]]))["micro_f1"]
        0.8
    """
    answered, true = _decisions(logits, labels)
    counts = label_counts(answered, true, 0)
    occurs = counts.sum(1) > 0
    f1 = 2 * counts[:, 0] / np.maximum(2 * counts[:, 0] + counts[:, 1] + counts[:, 2], 1)
    return {
        "micro_f1": _micro_f1(counts.sum(0)),
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else 1.0,
        "subset_accuracy": float((answered == true).all(1).mean()),
    }


def label_counts(answered: np.ndarray, true: np.ndarray, axis: int) -> np.ndarray:
    """[C, 3] (axis 0) or [N, 3] (axis 1) true positives, false positives and false negatives, from booleans [N, C]."""
    return np.stack([(answered & true).sum(axis), (answered & ~true).sum(axis), (~answered & true).sum(axis)], axis=1)


def _micro_f1(counts: np.ndarray) -> float:
    whole = 2 * counts[0] + counts[1] + counts[2]
    return float(2 * counts[0] / whole) if whole > 0 else 1.0


def _decisions(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = labelled(logits, labels)
    return logits > 0, labels > 0.5


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Probability of each label [N, C] float64."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def label_closeness(student_logits: np.ndarray, teacher_logits: np.ndarray) -> dict[str, float]:
    """Of logits [N, C]: ``agreement``, share of labels decided alike; ``teacher_kl``, mean KL of a label's yes and no, nats."""
    student, teacher = np.asarray(student_logits, np.float64), np.asarray(teacher_logits, np.float64)
    chance = probabilities(teacher)
    yes = _log_sigmoid(teacher) - _log_sigmoid(student)
    no = _log_sigmoid(-teacher) - _log_sigmoid(-student)
    return {
        "agreement": float(((student > 0) == (teacher > 0)).mean()),
        "teacher_kl": max(0.0, float((chance * yes + (1 - chance) * no).mean())),
    }


def _log_sigmoid(values: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -values)


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p) + torch.special.entr(1 - p)


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
    """A 0/1 value as a boolean; None where it is missing (also −1 and −100, which mark hidden labels).

    Raises:
        DataError: Neither 0 nor 1.
    """
    if is_missing(value) or value == -1:
        return None
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
    if text in _YES or text in _NO:
        return text in _YES
    if text == "-1":
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
        if value.strip()[:1] + value.strip()[-1:] in BRACKETS:
            raise _written_list(value, column, split, row)
        parts = value.split(delimiter) if delimiter else [value]
        return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not isinstance(value, list | tuple):
        value = [value]
    if isinstance(inner, ClassLabel) and inner.names and all(isinstance(item, int) and item >= 0 for item in value):
        return tuple(dict.fromkeys(inner.int2str(item) for item in value))
    value = [int(item) if isinstance(item, float) and item.is_integer() else item for item in value]
    value = [item.strip() if isinstance(item, str) else item for item in value]
    odd = [item for item in value if not isinstance(item, str | int) or is_missing(item)]
    if odd:
        raise DataError(
            f"column {column!r} has {odd[0]!r} among the labels of row {row} of the {split} split",
            "lists of names or whole numbers",
            "write each label as a name; for numbers to be predicted set task: regression",
        )
    return tuple(dict.fromkeys(value))


def _written_list(value: str, column: str, split: str, row: int) -> DataError:
    return DataError(
        f"column {column!r} has {shorten(value)!r} in row {row} of the {split} split, which looks like a list"
        " but cannot be read so",
        """lists such as ['a', 'b'] or ["a", "b"] in every row, or labels with | between them""",
        "write all rows alike",
    )


def as_set(row: Sequence[Any]) -> Sequence[Any]:
    """The labels of a row; of a vector the places of its ones."""
    return places(row) if isinstance(row, Vector) else row


def _of_sets(single: LabelMap) -> Mapped:
    """Takes sets of labels to rows of zeros and ones, out of what takes one label to its position."""

    def positions(raw: Sequence[Any], split: str) -> np.ndarray:
        check_sets(raw, split)
        values = np.zeros((len(raw), len(single.names)), np.float32)
        flat = [label for row in raw if row is not None for label in row]
        owner = [index for index, row in enumerate(raw) if row is not None for _ in row]
        values[owner, single.positions(flat, split)] = 1.0
        values[[index for index, row in enumerate(raw) if row is None]] = NO_LABEL
        return values

    return Mapped(positions, single.notes)
