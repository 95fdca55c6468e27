"""The judge of answers: what it keeps of every row, and the bootstrap intervals of the figures.

Shapes: N rows, U units of a row, C classes, S sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from potstill.answers.fidelity import Interval, interval_of, resampled_means
from potstill.contracts.answers import NO_LABEL, Predictions
from potstill.errors import DataError, ModelError
from potstill.ground.counted import inflected

if TYPE_CHECKING:
    from potstill.answers.fidelity import Reliability
    from potstill.contracts.answers import Judge

LEAST_BEHIND = 1e-6


@dataclass(frozen=True)
class Closeness:
    """How close a model's answers are to the teacher's; None where a figure means nothing for such answers.

    Args:
        agreement: Share of equal decisions.
        wdsr: The same, each weighted by the teacher's belief in the truth.
        mean_kl_nats: Mean KL(teacher ‖ model).
        others: Further figures by name.
    """

    agreement: float | None = None
    wdsr: float | None = None
    mean_kl_nats: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)


class Worst(NamedTuple):
    """A row on which the student does much worse than the teacher: the truth and both answers in words.

    The probabilities are those of the truth; None where answers have none.
    """

    row_id: int
    label: str
    teacher_label: str
    student_label: str
    teacher_probability: float | None = None
    student_probability: float | None = None


class KeptRows:
    """A judge that keeps named arrays of every batch, joined when figures are asked for; as a base it keeps the answers."""

    def __init__(self) -> None:
        self._parts: list[dict[str, np.ndarray]] = []
        self._joined: dict[str, np.ndarray] = {}

    def update(self, student: Predictions, teacher: Predictions | None = None) -> None:
        """Take in the answers to some rows; see `contracts.answers.Judge`."""
        self._parts.append(self.keep(student, teacher))
        self._joined.clear()

    def keep(self, student: Predictions, teacher: Predictions | None) -> dict[str, np.ndarray]:
        """What is kept of a batch: here the answers of both."""
        kept = {"logits": student.logits, "labels": np.asarray(student.labels), "row_ids": student.row_ids}
        if teacher is not None:
            check_pair(student.logits, teacher.logits)
            kept["teacher"] = teacher.logits
        return kept

    def __contains__(self, name: str) -> bool:
        return all(name in part for part in self._parts)

    def __getitem__(self, name: str) -> np.ndarray:
        """What was kept under a name, of all rows so far."""
        if name not in self._joined:
            self._joined[name] = np.concatenate([part[name] for part in self._parts])
        return self._joined[name]

    def per_class(self) -> list[dict[str, Any]]:
        """Nothing: there are no classes."""
        return []

    def calibration(self) -> Reliability | None:
        """None: answers come without a confidence."""
        return None


def units_of(found: Predictions) -> Predictions:
    """One row for each unit that counts: logits [M, C], labels [M], row ids [M]; itself where a row is one unit.

    Without a mask the units that have a label count.
    """
    labels, mask = np.asarray(found.labels), found.mask
    if mask is None and (labels.ndim < 2 or np.ndim(found.logits) == labels.ndim):
        return found
    mask = labels >= 0 if mask is None else mask
    row_ids = np.broadcast_to(np.asarray(found.row_ids)[:, None], mask.shape)[mask]
    return Predictions(np.asarray(found.logits)[mask], labels[mask], row_ids)


def shared_units(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Both, each with the units that count in both: a word that only one model's tokenizer cut off is left out."""
    if first.mask is None or second.mask is None:
        return units_of(first), units_of(second)
    both = first.mask & second.mask
    return units_of(first._replace(mask=both)), units_of(second._replace(mask=both))


def check_pair(student: np.ndarray, teacher: np.ndarray) -> None:
    """Refuse answers of two models that cannot be compared.

    Raises:
        DataError: Different shapes or no rows.
    """
    if student.shape != teacher.shape or len(student) == 0:
        raise DataError(
            f"student logits {list(student.shape)} and teacher logits {list(teacher.shape)} cannot be compared",
            "the same rows and classes, at least one row",
        )


def known_rows(labels: np.ndarray) -> np.ndarray:
    """[N] bool, rows with a label in any place of [N] or [N, ...]; `NO_LABEL` and NaN stand for none."""
    values = np.asarray(labels)
    known = values != NO_LABEL
    if np.issubdtype(values.dtype, np.floating):
        known &= ~np.isnan(values)
    return known.reshape(len(values), -1).any(1)


def no_labels() -> ModelError:
    """The error for rows of which none has a label."""
    return ModelError("no row has a label, so quality cannot be measured", "rows with labels", "evaluate on a labelled split")


def labelled(answers: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Answers and labels [N, C] of the rows that have labels, for kinds that have as many labels as outputs.

    Raises:
        ModelError: Answers that are not finite, no row with labels, or another number of labels.
    """
    labels = labels.reshape(len(labels), -1)
    known = known_rows(labels)
    if not known.any():
        raise no_labels()
    if labels.shape != answers.shape:
        raise ModelError(
            f"the model gives {answers.shape[1:]} answers a row and the rows have {labels.shape[1:]} labels",
            "as many on both sides",
            "take the model that was trained on these labels",
        )
    broken = ~np.isfinite(answers[known]).all(axis=1)
    if broken.any():
        raise ModelError(
            f"{broken.sum()} of {known.sum()} rows {inflected(int(broken.sum()), 'has', 'have')} answers that are not finite",
            "finite answers",
            "run the model in float32, or lower the learning rate it was trained with",
        )
    return answers[known], labels[known]


def furthest(behind: np.ndarray, count: int) -> list[int]:
    """The positions of the largest values above 0 (and above rounding), at most `count`, largest first."""
    order = np.argsort(-behind, kind="stable")[:count]
    return [int(at) for at in order if behind[at] > LEAST_BEHIND]


def intervals(
    judges: Mapping[str, Judge],
    metric: str,
    *,
    scores: Mapping[str, np.ndarray] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """``<model>.<metric>``, ``<model> - teacher``, ``<model> - baseline`` and ``retention`` with their bootstrap intervals.

    All models are resampled on the same rows, so that differences and ratios are paired; there are none of models that did not
    answer the same rows.

    Args:
        judges: Model → its judge, all of the same rows; "student" and "teacher" give the retention.
        metric: Its name.
        scores: Model → the metric of each text [G], where it is a mean over texts and not over what judges keep.
        confidence: Share of resamples within an interval.
        resamples: How often rows are drawn anew.
        seed: Of the draws.

    Returns:
        Empty where the metric is no function of means over rows.
    """
    found: dict[str, Interval] = {}
    drawn, whole = {}, {}
    num_rows = set()
    for name, judge in judges.items():
        given = (scores[name][:, None], _only) if scores else judge.row_sums(metric)
        if given is None:
            return {}
        sums, value_of = given
        num_rows.add(len(sums))
        drawn[name] = np.array([value_of(means) for means in resampled_means(sums, resamples, seed)])
        whole[name] = value_of(sums.mean(0))
        found[f"{name}.{metric}"] = interval_of(whole[name], drawn[name], confidence)
    if len(num_rows) > 1:
        return found
    for name, other in itertools.product(whole, ("teacher", "baseline")):
        if other in whole and name not in ("teacher", other):
            found[f"{name} - {other}"] = interval_of(whole[name] - whole[other], drawn[name] - drawn[other], confidence)
    if whole.get("teacher", 0.0) > 0 and "student" in whole:
        ratios = drawn["student"] / np.where(drawn["teacher"] > 0, drawn["teacher"], np.nan)
        ratios = ratios[np.isfinite(ratios)]
        if len(ratios):
            found["retention"] = interval_of(whole["student"] / whole["teacher"], ratios, confidence)
    return found


def _only(means: np.ndarray) -> float:
    return float(means[0])


def class_figures(counts: np.ndarray) -> list[dict[str, Any]]:
    """What `Judge.per_class` returns, from true positives, false positives and false negatives of each class [C, 3]."""
    return [
        {
            "label": index,
            "support": hit + missed,
            "precision": hit / (hit + extra) if hit + extra else None,
            "recall": hit / (hit + missed) if hit + missed else None,
            "f1": 2 * hit / (2 * hit + extra + missed) if hit + extra + missed else None,
        }
        for index, (hit, extra, missed) in enumerate(counts.tolist())
    ]


def listed_labels(chosen: np.ndarray, names: Sequence[str]) -> str:
    """The names of the labels that are chosen [C] bool, or "none"."""
    return ", ".join(names[int(index)] for index in np.flatnonzero(chosen)) or "none"


def judged(judge: Judge, student: Predictions, teacher: Predictions | None = None) -> Judge:
    """The judge after it has seen whole sets at once."""
    judge.update(student, teacher)
    return judge
