"""Judges of label sets, numbers and embeddings: intervals hold the figure, and spoilt rows are found worst."""

from __future__ import annotations

import numpy as np
import pytest

from potstill import tasks
from potstill.answers.judging import intervals, judged
from potstill.contracts.answers import Judge, Predictions


def predictions(logits: np.ndarray, labels: np.ndarray) -> Predictions:
    return Predictions(logits.astype(np.float32), labels.astype(np.float32), np.arange(len(logits)))


def judge(name: str, found: Predictions) -> Judge:
    return judged(tasks.build(name).answers().judge(), found)


@pytest.mark.parametrize(
    ("name", "metric"), [("multi-label", "micro_f1"), ("regression", "concordance"), ("sentence-embeddings", "spearman")]
)
def test_intervals_hold_the_figure_and_worst_rows_are_found(name: str, metric: str) -> None:
    chance, task = np.random.default_rng(0), tasks.build(name)
    truth = chance.normal(size=(80, 3))
    labels = {"multi-label": truth > 0, "regression": truth}.get(name, chance.random(40).repeat(2)[:, None])
    teacher = predictions(truth + 0.3 * chance.normal(size=truth.shape), labels)
    spoilt = teacher.logits.copy()
    spoilt[17] = -6 * np.sign(truth[17])
    student = predictions(spoilt, labels)
    own, reference = (judged(task.answers().judge(), found, teacher) for found in (student, teacher))
    found = intervals({"teacher": reference, "student": own}, metric)
    quality = task.quality(student.logits, student.labels, teacher=teacher.logits)[metric]
    assert found[f"student.{metric}"].value == pytest.approx(quality)
    assert found[f"student.{metric}"].low <= quality <= found[f"student.{metric}"].high
    assert "retention" in found
    assert own.worst(("a", "b", "c"), 5)[0].row_id == 17
    assert reference.worst(("a", "b", "c"), 5) == []


def test_decisions_are_calibrated_where_their_probability_is_their_rate() -> None:
    chance = np.random.default_rng(0)
    logits = chance.normal(size=(4000, 3)) * 2
    labels = chance.random(logits.shape) < 1 / (1 + np.exp(-logits))
    calibration = judge("multi-label", predictions(logits, labels)).calibration()
    assert calibration is not None
    assert calibration.ece < 0.02
    assert judge("regression", predictions(logits, logits)).calibration() is None
