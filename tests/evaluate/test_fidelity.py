"""Fidelity figures equal slow versions written from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.answers import build
from potstill.answers.fidelity import gap_closed, reliability_of, retention
from potstill.answers.judging import intervals, judged
from potstill.contracts.answers import Predictions
from potstill.errors import DataError, ModelError


def judge(student, labels, teacher=None):
    """The judge of classes [N, C] against labels [N]."""
    sides = [None if side is None else Predictions(side, labels, np.arange(len(labels))) for side in (student, teacher)]
    return judged(build("class").judge(), *sides)


def no_labels(logits):
    """Labels of rows that have none."""
    return np.full(len(logits), -100)


@st.composite
def cases(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    num_rows, num_classes = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    scale = draw(st.sampled_from([0.1, 1.0, 60.0, 1000.0]))
    student, teacher = (generator.normal(0, scale, (num_rows, num_classes)) for _ in range(2))
    labels = generator.integers(-1, num_classes, num_rows)
    labels[labels == -1] = -100
    return student, teacher, labels


def slow_softmax(row):
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / sum(weights) for weight in weights]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_wdsr_equals_its_definition(case):
    student, teacher, labels = case
    above = below = 0.0
    for s, t, label in zip(student.tolist(), teacher.tolist(), labels.tolist()):
        if label != -100:
            weight = slow_softmax(t)[label]
            below += weight
            above += weight * (s.index(max(s)) == t.index(max(t)))
    got = judge(student, labels, teacher).closeness().wdsr
    assert (got is None) if below == 0 else got == pytest.approx(above / below, abs=1e-9)
    perfect = judge(teacher, labels, teacher).closeness().wdsr
    assert perfect is None or perfect == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_agreement_and_kl_equal_their_definitions(case):
    student, teacher, _ = case
    same, total = 0, 0.0
    for s, t in zip(student.tolist(), teacher.tolist()):
        same += s.index(max(s)) == t.index(max(t))
        log_s, log_t = ([v - max(row) - math.log(sum(math.exp(w - max(row)) for w in row)) for v in row] for row in (s, t))
        total += sum(math.exp(b) * (b - a) for a, b in zip(log_s, log_t))
    found = judge(student, no_labels(student), teacher).closeness()
    assert found.agreement == pytest.approx(same / len(student))
    assert found.mean_kl_nats == pytest.approx(total / len(student), rel=1e-9, abs=1e-9)
    assert found.mean_kl_nats >= 0.0
    assert judge(teacher, no_labels(teacher), teacher).closeness().mean_kl_nats == 0.0


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 20))
def test_ece_equals_its_definition(case, num_bins):
    student, _, labels = case
    known = [(slow_softmax(row), label) for row, label in zip(student.tolist(), labels.tolist()) if label != -100]
    if not known:
        return
    bins: dict[int, list] = {}
    for probabilities, label in known:
        sure = max(probabilities)
        at = next(k for k in range(num_bins) if sure <= np.linspace(0, 1, num_bins + 1)[k + 1] + 1e-15)
        bins.setdefault(at, []).append((sure, probabilities.index(sure) == label))
    expected = sum(
        len(rows) / len(known) * abs(np.mean([right for _, right in rows]) - np.mean([sure for sure, _ in rows]))
        for rows in bins.values()
    )
    sure, right = (np.array(values) for values in zip(*((max(row), row.index(max(row)) == label) for row, label in known)))
    found = reliability_of(sure, right, num_bins=num_bins)
    assert found.ece == pytest.approx(expected, abs=1e-9)
    assert found.counts.sum() == len(known)
    if num_bins == 15:
        assert judge(student, labels).calibration().ece == pytest.approx(expected, abs=1e-9)


def test_ece_of_a_sure_and_right_model_is_zero_and_of_a_sure_and_wrong_one_is_one():
    logits = np.eye(3) * 1e3
    assert judge(logits, np.arange(3)).calibration().ece == pytest.approx(0.0)
    assert judge(logits, np.array([1, 2, 0])).calibration().ece == pytest.approx(1.0)


@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1))
def test_retention_and_gap_closed(teacher, student, baseline):
    assert retention(student, teacher) == pytest.approx(student / teacher)
    assert retention(student, 0.0) is None
    assert retention(student, -0.1) is None
    closed = gap_closed(student, baseline, teacher)
    assert (closed is None) == (teacher <= baseline)
    if closed is not None:
        assert baseline + closed * (teacher - baseline) == pytest.approx(student, abs=1e-6)


def test_intervals_hold_the_value_and_narrow_with_rows():
    generator = np.random.default_rng(0)
    widths = []
    for num_rows in (100, 4000):
        labels = generator.integers(0, 2, num_rows)
        right = generator.random(num_rows) < 0.8
        logits = np.eye(2)[np.where(right, labels, 1 - labels)]
        own = judge(logits, labels)
        found = intervals({"student": own, "teacher": own}, "accuracy")
        interval, same = found["student.accuracy"], found["retention"]
        assert interval.low <= interval.value == right.mean() <= interval.high
        widths.append(interval.high - interval.low)
        assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    assert widths[0] == pytest.approx(2 * 1.96 * math.sqrt(0.16 / 100), rel=0.3)  # the normal approximation
    assert widths[1] < widths[0] / 4


def test_messages():
    with pytest.raises(DataError, match=r"student logits \[2, 3\] and teacher logits \[2, 4\] cannot be compared.*Accepted"):
        judge(np.zeros((2, 3)), np.zeros(2, int), np.zeros((2, 4)))
    with pytest.raises(DataError, match=r"labels go from 0 to 7.*Accepted: 0 to 2"):
        judge(np.zeros((2, 3)), np.array([0, 7]), np.zeros((2, 3)))
    with pytest.raises(ModelError, match=r"no row has a label.*What to do"):
        judge(np.zeros((1, 2)), np.array([-100])).row_sums("accuracy")
    with pytest.raises(DataError, match=r"0 labelled rows"):
        judge(np.zeros((1, 2)), np.array([-100])).calibration()
