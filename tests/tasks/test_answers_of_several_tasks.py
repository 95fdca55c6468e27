"""Measures of several tasks: each inside its block, and their plain means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from potstill.answers.judging import intervals, judged
from potstill.answers.units import FLOOR, of_own_task
from potstill.contracts.answers import Predictions
from potstill.data.task_rows import SPAN, TaskCollator
from potstill.errors import RecipeError
from potstill.knowledge.per_task import widen_head
from potstill.models.labels import name_classes
from potstill.tasks import build, of_several

NAMES = ("mood/bad", "mood/good", "topic/film", "topic/book", "topic/song")


def predictions() -> Predictions:
    chance = np.random.default_rng(0)
    numbers = np.array([0] * 40 + [1] * 10)
    labels = np.where(numbers == 0, chance.integers(0, 2, 50), chance.integers(2, 5, 50))
    logits = torch.from_numpy(chance.normal(size=(50, 5)).astype(np.float32))
    bounds = torch.tensor([[0, 2], [2, 5]])[numbers]
    return Predictions(of_own_task(logits, {"task_classes": bounds}).numpy(), labels, np.arange(50) + numbers * SPAN)


def test_quality_is_that_of_each_task_and_their_plain_mean() -> None:
    task, found = of_several(build("text-classification")), predictions()
    task.label_names = NAMES
    quality = task.quality(found.logits, found.labels)
    mood = build("text-classification").quality(found.logits[:40, :2], found.labels[:40])
    topic = build("text-classification").quality(found.logits[40:, 2:], found.labels[40:] - 2)
    for name in ("accuracy", "macro_f1", "mcc"):
        assert quality[f"mood/{name}"] == mood[name]
        assert quality[f"topic/{name}"] == topic[name]
        assert quality[name] == pytest.approx((mood[name] + topic[name]) / 2)
    assert set(task.quality(found.logits[:40], found.labels[:40])) >= {"accuracy", "mood/accuracy"}


def test_intervals_hold_the_mean_over_tasks() -> None:
    task, found = of_several(build("text-classification")), predictions()
    task.label_names = NAMES
    judge = judged(task.answers().judge(), found, found)
    interval = intervals({"teacher": judge, "student": judge}, "accuracy")["student.accuracy"]
    accuracy = task.quality(found.logits, found.labels)["accuracy"]
    assert interval.low < accuracy < interval.high
    assert judge.closeness().agreement == 1.0
    assert judge.closeness().mean_kl_nats == pytest.approx(0.0, abs=1e-7)


def test_the_collator_says_the_classes_of_each_row() -> None:
    collator = TaskCollator(lambda rows: {"row_id": torch.tensor([row["row_id"] for row in rows])}, ((0, 2), (2, 5)))
    batch = collator([{"row_id": 3}, {"row_id": SPAN + 3}, {"row_id": 0}])
    assert batch["task_classes"].tolist() == [[0, 2], [2, 5], [0, 2]]
    masked = of_own_task(torch.zeros(3, 5), batch)
    assert (masked == FLOOR).tolist() == [[False] * 2 + [True] * 3, [True] * 2 + [False] * 3, [False] * 2 + [True] * 3]


@pytest.mark.parametrize(
    "name", ["regression", "multi-label", "token-classification", "question-answering", "sentence-embeddings"]
)
def test_tasks_without_one_class_for_a_row_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"one teacher for each task is given, and the task is {name}"):
        of_several(build(name))


@pytest.mark.parametrize("start", [0, 2])
def test_a_widened_head_says_the_same_in_its_own_block(start: int) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    model = BertForSequenceClassification(config).eval()
    tokens = torch.arange(1, 13).reshape(2, 6)
    with torch.no_grad():
        before = model(tokens).logits
        widen_head(model, start, 5)
        name_classes(model, NAMES)
        after = model(tokens).logits
    torch.testing.assert_close(after[:, start : start + 3], before)
    outside = [index for index in range(5) if not start <= index < start + 3]
    assert not after[:, outside].any()
    assert model.config.num_labels == 5
