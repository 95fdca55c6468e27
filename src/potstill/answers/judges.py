"""What is measured of answers of each kind, beside the task's own quality: closeness to the teacher, calibration, worst rows.

Shapes: N rows (units), C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from potstill.answers.calibration import Reliability, reliability
from potstill.answers.fidelity import (
    Interval,
    accuracy_interval,
    agreement,
    interval_of,
    log_softmax,
    mean_kl,
    resampled_means,
    retention_interval,
    wdsr,
)
from potstill.evaluate.quality import Predictions, shared_units
from potstill.ground.tables import resolve

LEAST_BEHIND = 1e-6
JUDGES = {
    "class": "potstill.answers.judges:ClassJudge",
    "tasks": "potstill.answers.task_judge:TasksJudge",
    "span": "potstill.answers.judges:SpanJudge",
    "labels": "potstill.answers.graded_judges:LabelsJudge",
    "numbers": "potstill.answers.graded_judges:NumbersJudge",
    "embedding": "potstill.answers.graded_judges:EmbeddingJudge",
}


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
    """A row on which the student does much worse than the teacher.

    Args:
        row_id: The row.
        label: The truth, in words.
        teacher_label: What the teacher says.
        student_label: What the student says.
        teacher_probability: The teacher's probability of the truth; None where answers have none.
        student_probability: The student's.
    """

    row_id: int
    label: str
    teacher_label: str
    student_label: str
    teacher_probability: float | None = None
    student_probability: float | None = None


class Judge(Protocol):
    """Measures answers of one kind; both models' answers are in the same order of rows."""

    def closeness(self, student: Predictions, teacher: Predictions) -> Closeness:
        """Figures against the teacher's answers."""
        ...

    def calibration(self, found: Predictions) -> Reliability | None:
        """Confidence against accuracy; None where answers have no confidence."""
        ...

    def intervals(self, answers: Mapping[str, Predictions], metric: str) -> dict[str, Interval]:
        """``<model>.<metric>`` and ``retention`` with their bootstrap intervals; empty where the metric has none."""
        ...

    def worst(self, student: Predictions, teacher: Predictions, names: Sequence[str], count: int) -> list[Worst]:
        """At most `count` rows where the student falls furthest behind the teacher, worst first."""
        ...


def judge_of(task: Any) -> Judge:
    """The judge of a task's answers."""
    judge: Judge = resolve(JUDGES, task.answers().kind, kind="judge")()
    return judge


class ClassJudge:
    """Answers that are one class of several, for each row or each unit of a row."""

    def closeness(self, student: Predictions, teacher: Predictions) -> Closeness:
        """Agreement, WDSR and mean KL; see `potstill.answers.fidelity`."""
        ours, theirs = shared_units(student, teacher)
        return Closeness(
            agreement(ours.logits, theirs.logits),
            wdsr(ours.logits, theirs.logits, ours.labels),
            mean_kl(ours.logits, theirs.logits),
        )

    def calibration(self, found: Predictions) -> Reliability | None:
        """See `potstill.answers.calibration.reliability`."""
        units = found.units()
        return reliability(units.logits, units.labels)

    def intervals(self, answers: Mapping[str, Predictions], metric: str) -> dict[str, Interval]:
        """Of accuracy; other metrics have none."""
        if metric != "accuracy":
            return {}
        student, teacher = answers["student"], answers["teacher"]
        found = {f"{name}.accuracy": accuracy_interval(one.logits, one.labels) for name, one in answers.items()}
        kept = retention_interval(student.logits, teacher.logits, student.labels)
        return found if kept is None else {**found, "retention": kept}

    def worst(self, student: Predictions, teacher: Predictions, names: Sequence[str], count: int) -> list[Worst]:
        """By how much less probability than the teacher the student gives to the true class."""
        ours, theirs = shared_units(student, teacher)
        known = np.flatnonzero(ours.labels >= 0)
        labels, rows = ours.labels[known], np.arange(len(known))
        own, other = np.exp(log_softmax(ours.logits[known])), np.exp(log_softmax(theirs.logits[known]))
        behind = other[rows, labels] - own[rows, labels]
        return [
            Worst(
                int(ours.row_ids[known][at]),
                names[labels[at]],
                names[int(other[at].argmax())],
                names[int(own[at].argmax())],
                float(other[at, labels[at]]),
                float(own[at, labels[at]]),
            )
            for at in furthest(behind, count)
        ]


class SpanJudge(ClassJudge):
    """Answers that are a first and a last place of a row: each of the two is judged like a class; places have no names."""

    def worst(self, student: Predictions, teacher: Predictions, names: Sequence[str], count: int) -> list[Worst]:
        """By how much less probability than the teacher the student gives to the first and the last place."""
        return super().worst(student, teacher, [str(place) for place in range(student.logits.shape[-1])], count)


def furthest(behind: np.ndarray, count: int) -> list[int]:
    """The positions of the largest values above 0 (and above rounding), at most `count`, largest first."""
    order = np.argsort(-behind, kind="stable")[:count]
    return [int(at) for at in order if behind[at] > LEAST_BEHIND]


def bootstrap(
    answers: Mapping[str, Predictions],
    metric: str,
    row_sums: Callable[[Predictions], np.ndarray],
    value_of: Callable[[np.ndarray], float],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of any metric that is a function of means over rows; all models are resampled on the same rows.

    Args:
        answers: Model → answers.
        metric: Its name.
        row_sums: Answers → [N, S], what is averaged.
        value_of: Means [S] → the metric.
        confidence: Share of resamples within an interval.
        resamples: How often rows are drawn anew.
        seed: Of the draws.
    """
    found, drawn, whole = {}, {}, {}
    for name, one in answers.items():
        sums = row_sums(one)
        draws = resampled_means(sums, resamples, seed)
        drawn[name] = np.array([value_of(means) for means in draws])
        whole[name] = value_of(sums.mean(0))
        found[f"{name}.{metric}"] = interval_of(whole[name], drawn[name], confidence)
    if whole.get("teacher", 0.0) > 0 and "student" in whole:
        ratios = drawn["student"] / np.where(drawn["teacher"] > 0, drawn["teacher"], np.nan)
        ratios = ratios[np.isfinite(ratios)]
        if len(ratios):
            found["retention"] = interval_of(whole["student"] / whole["teacher"], ratios, confidence)
    return found
