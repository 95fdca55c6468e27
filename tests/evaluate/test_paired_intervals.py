"""Intervals of differences are paired and hold the truth, for the headline metric of every kind of answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from potstill.answers import build as build_answers
from potstill.answers.judging import intervals, judged
from potstill.contracts.answers import Predictions

NOISE = {"teacher": 0.9, "baseline": 1.1, "student": 1.0}
HEADLINES = [
    ("class", "accuracy"),
    ("labels", "micro_f1"),
    ("numbers", "concordance"),
    ("tags", "f1"),
    ("tags", "accuracy"),
    ("span", "f1"),
    ("span", "exact_match"),
    ("embedding", "teacher_cosine"),
    ("embedding", "spearman"),
]


@pytest.mark.parametrize(("kind", "metric"), HEADLINES)
@pytest.mark.parametrize("pair", ["student - teacher", "student - baseline"])
def test_the_interval_of_a_difference_is_paired_and_holds_the_truth(kind: str, metric: str, pair: str) -> None:
    name, other = pair.split(" - ")
    truth = _values(kind, metric, 6000, np.random.default_rng(1))
    held, widths, apart = 0, [], []
    for trial in range(40):
        judges = _judges(kind, 120, np.random.default_rng(100 + trial))
        found = intervals(judges, metric, resamples=200, seed=trial)
        widths.append(found[pair].high - found[pair].low)
        own = [found[f"{one}.{metric}"] for one in (name, other)]
        apart.append(np.hypot(*(one.high - one.low for one in own)))  # were they drawn each on its own
        held += found[pair].low <= truth[name] - truth[other] <= found[pair].high
    assert held >= 33  # of 40 intervals at 95 %
    assert np.mean(widths) < np.mean(apart)


def test_a_metric_of_texts_is_drawn_over_texts() -> None:
    judges = _judges("span", 60, np.random.default_rng(0))
    scores = {name: np.random.default_rng(place).random(20) for place, name in enumerate(judges)}
    found = intervals(judges, "f1", scores=scores)
    assert found["student.f1"].value == pytest.approx(scores["student"].mean())
    assert found["student - baseline"].value == pytest.approx(scores["student"].mean() - scores["baseline"].mean())


def test_models_that_answered_other_rows_have_no_difference() -> None:
    judges = _judges("class", 60, np.random.default_rng(0))
    judges["student"] = _judges("class", 59, np.random.default_rng(0))["student"]
    assert {"teacher.accuracy", "student.accuracy", "baseline.accuracy"} == intervals(judges, "accuracy").keys()


def _values(kind: str, metric: str, rows: int, random: np.random.Generator) -> dict[str, float]:
    return {name: judge.quality()[metric] for name, judge in _judges(kind, rows, random).items()}


def _judges(kind: str, rows: int, random: np.random.Generator) -> dict[str, Any]:
    """Judges of three models whose mistakes are mostly the same."""
    answers, labels, true = build_answers(kind), *_truth(kind, rows, random)
    if kind != "embedding":
        answers.label_names = {"class": ("no", "yes"), "labels": ("a", "b"), "tags": TAGS}.get(kind, ())
    shared = random.normal(size=true.shape)
    found = {
        name: Predictions(
            (true + noise * shared + 0.1 * random.normal(size=true.shape)).astype(np.float32),
            labels,
            np.arange(rows),
            np.ones(true.shape[:2], bool) if kind == "tags" else None,
        )
        for name, noise in NOISE.items()
    }
    return {name: judged(answers.judge(), one, found["teacher"]) for name, one in found.items()}


TAGS = ("B-X", "I-X", "O")


def _truth(kind: str, rows: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and outputs that are right."""
    if kind in ("class", "labels"):
        value = random.normal(size=rows)
        if kind == "class":
            return (value > 0).astype(np.int64), np.stack([-value, value], 1)
        return np.stack([value > 0, value > 1], 1).astype(np.float32), np.stack([value, value - 1], 1)
    if kind == "numbers":
        value = random.normal(size=(rows, 1))
        return value.astype(np.float32), value
    if kind == "tags":
        labels = random.integers(3, size=(rows, 5))
        return labels, 2.0 * np.eye(3)[labels]
    if kind == "span":
        first = random.integers(1, 5, size=rows)
        labels = np.stack([first, first + random.integers(0, 3, size=rows)], 1)
        return labels, 3.0 * np.eye(8)[labels]
    pairs = random.normal(size=(rows // 2, 1, 8)) + 0.7 * random.normal(size=(rows // 2, 2, 8))
    scores = np.sign(pairs).prod(1).mean(-1) + 0.1 * random.normal(size=rows // 2)
    return np.repeat(scores, 2).astype(np.float32)[:, None], pairs.reshape(rows, 8)
