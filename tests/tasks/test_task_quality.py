"""Measures equal those of scikit-learn; broken answers are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from potstill import tasks
from potstill.errors import ModelError

CLASSES = tasks.build("text-classification")


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 60), classes=st.integers(2, 7), seed=st.integers(0, 1000))
def test_measures_equal_an_independent_computation(rows: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(rows, classes)), random.integers(0, classes, rows)
    answers = logits.argmax(1)
    quality = CLASSES.quality(logits, labels)
    assert quality["accuracy"] == pytest.approx(metrics.accuracy_score(labels, answers))
    assert quality["macro_f1"] == pytest.approx(metrics.f1_score(labels, answers, average="macro", zero_division=0))
    assert quality["mcc"] == pytest.approx(metrics.matthews_corrcoef(labels, answers), abs=1e-9)
    recalls = metrics.recall_score(labels, answers, average=None, labels=range(classes), zero_division=np.nan)
    for row, recall in zip(CLASSES.per_class(logits, labels), recalls, strict=True):
        assert (row["recall"] is None and np.isnan(recall)) or row["recall"] == pytest.approx(recall)


def test_rows_without_labels_are_left_out() -> None:
    assert CLASSES.quality(np.eye(3), np.array([0, -100, 1]))["accuracy"] == 0.5
    with pytest.raises(ModelError, match="no row has a label"):
        CLASSES.quality(np.eye(3), np.full(3, -100))


def test_logits_that_are_not_finite_are_refused() -> None:
    logits = np.eye(3)
    logits[2, 0] = np.nan
    with pytest.raises(ModelError, match=r"1 of 3 rows has logits that are not finite \(the first is row 2\)"):
        CLASSES.quality(logits, np.arange(3))


# Right answers to labels of the shape that each task has; one class a row where a task is not listed.
RIGHT = {
    "image-multi-label": (9.0 * np.eye(2) - 4, np.eye(2, dtype=np.float32)),
    "image-regression": (np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [2.0], [4.0]], np.float32)),
    "multi-label": (9.0 * np.eye(2) - 4, np.eye(2, dtype=np.float32)),
    "regression": (np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [2.0], [4.0]], np.float32)),
    "sentence-embeddings": (np.eye(2), np.full((2, 1), np.nan, np.float32)),
    "token-classification": (np.eye(2)[None], np.array([[0, 1]])),
    "question-answering": (9.0 * np.eye(3)[None, 1:], np.array([[1, 2]])),
}


@pytest.mark.parametrize("name", tasks.TASKS)
def test_every_task_keeps_the_contract(name: str) -> None:
    from potstill.contracts.task import Task

    task = tasks.build(name)
    assert isinstance(task, Task)
    assert task.name == name
    logits, labels = RIGHT.get(name, (np.eye(2), np.arange(2)))
    task.label_names = ("B-LOC", "O")
    assert task.quality(logits, labels, teacher=logits)[task.metric_for(labels)] == pytest.approx(1.0)
