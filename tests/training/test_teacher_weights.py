"""Weights of several teachers: they prefer who is right, move while the student learns, and come back from a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
import torch
from small_models import CLASSES, Rows, collate, encoder
from torch import Tensor
from transformers import TrainingArguments

from potstill.contracts.signal import TeacherSignal
from potstill.errors import ModelError
from potstill.knowledge.ensemble import EACH, EnsembleTeacher, combine, row_weights
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses.contract import IGNORED_LABEL, StudentView
from potstill.training.teacher_weights import TeacherWeights
from potstill.training.trainer import DistillationTrainer


class Oracle:
    """Says the label with some sureness, or the class after it."""

    def __init__(self, *, is_right: bool, sureness: float = 3.0) -> None:
        self.is_right, self.sureness = is_right, sureness
        self.fingerprint = f"oracle {is_right} {sureness}"

    def can_provide(self, need: str) -> bool:
        return need == "logits"

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        said = (batch["labels"].clamp_min(0) + (0 if self.is_right else 1)) % CLASSES
        return TeacherSignal(DenseLogits(self.sureness * torch.nn.functional.one_hot(said, CLASSES).float()))


def logs(seed: int = 0, teachers: int = 3, rows: int = 5) -> Tensor:
    return torch.randn(teachers, rows, CLASSES, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


@pytest.mark.parametrize("confidence", ["none", "entropy", "max", "label"])
def test_weights_of_every_row_sum_to_one(confidence: str) -> None:
    labels = torch.tensor([0, 1, 2, IGNORED_LABEL, 0])
    weights = row_weights(logs(), torch.tensor([0.5, 0.3, 0.2]), labels, confidence=confidence)
    torch.testing.assert_close(weights.sum(0), torch.ones(5))
    assert bool((weights >= 0).all())


@pytest.mark.parametrize("confidence", ["none", "entropy", "max", "label"])
@pytest.mark.parametrize("mode", ["probability", "logit"])
def test_identical_teachers_are_the_one(mode: str, confidence: str) -> None:
    one = logs(teachers=1)
    joint = combine(
        one.expand(4, -1, -1), torch.full((4,), 0.25), torch.zeros(5, dtype=torch.long), mode=mode, confidence=confidence
    )
    torch.testing.assert_close(joint, one[0])


def test_weights_by_largest_probability_equal_a_slow_version() -> None:
    given, fixed = logs(1), torch.tensor([0.2, 0.3, 0.5])
    for row in range(5):
        trust = torch.stack([fixed[s] * max(given[s, row].exp().tolist()) for s in range(3)])
        torch.testing.assert_close(row_weights(given, fixed, confidence="max")[:, row], trust / trust.sum())


def test_agreement_prefers_the_teacher_that_is_right() -> None:
    batch = {"labels": torch.tensor([0, 1, 2, IGNORED_LABEL])}
    each = torch.stack([Oracle(is_right=right).signal(batch).logits.log_softmax(-1) for right in (True, False)])
    weights = row_weights(each, torch.tensor([0.5, 0.5]), batch["labels"], confidence="label")
    assert bool((weights[0, :3] > 0.9).all())
    assert weights[0, 3] == 0.5


def test_a_signal_holds_every_teacher_where_it_is_asked_for() -> None:
    ensemble = EnsembleTeacher([Oracle(is_right=True), Oracle(is_right=False)])
    batch = {"labels": torch.tensor([0, 1])}
    assert EACH not in ensemble.signal(batch).taps
    assert ensemble.signal(batch, ("logits", EACH)).taps[EACH].shape == (2, 2, CLASSES)


def test_the_loss_is_that_of_the_mixture_and_its_gradient_points_to_the_right_teacher() -> None:
    weights = TeacherWeights(2, [1, 3])
    torch.testing.assert_close(weights.shares(), torch.tensor([0.25, 0.75]))
    batch = {"labels": torch.tensor([0, IGNORED_LABEL, 2])}
    ensemble = EnsembleTeacher([Oracle(is_right=True), Oracle(is_right=False)], weights.shares)
    signal = ensemble.signal(batch, ("logits", EACH))
    value = weights(StudentView(torch.zeros(3, CLASSES)), signal, batch)
    assert float(value.count) == 2
    torch.testing.assert_close(value.sum.detach(), -(signal.logits[0, 0] + signal.logits[2, 2]))
    value.sum.backward()
    assert weights.scores.grad[0] < 0 < weights.scores.grad[1]


@pytest.mark.parametrize("start", [[1.0], [-1.0, 2.0], [0.0, 0.0]])
def test_weights_that_do_not_fit_are_refused(start: list[float]) -> None:
    with pytest.raises(ModelError, match="do not fit 2 teachers"):
        TeacherWeights(2, start)


def trainer(folder: Any, steps: int, weights: TeacherWeights) -> DistillationTrainer:
    args = TrainingArguments(
        str(folder), max_steps=steps, save_steps=6, learning_rate=3e-3, per_device_train_batch_size=8, report_to=[], use_cpu=True
    )
    ensemble = EnsembleTeacher([Oracle(is_right=True), Oracle(is_right=False)], weights.shares)
    return DistillationTrainer(
        encoder(), args, teacher=ensemble, losses=["kl", weights], train_dataset=Rows(), data_collator=collate
    )


def test_learned_weights_move_to_the_right_teacher_and_come_back_from_a_checkpoint(tmp_path: Any) -> None:
    whole = TeacherWeights(2)
    trainer(tmp_path / "whole", 18, whole).train()
    assert whole.shares()[0] > 0.6
    half = TeacherWeights(2)
    trainer(tmp_path / "parts", 18, half).train()
    for later in sorted((tmp_path / "parts").glob("checkpoint-1[28]")):
        later.rename(tmp_path / later.name)
    resumed = TeacherWeights(2)
    trainer(tmp_path / "parts", 18, resumed).train(resume_from_checkpoint=True)
    torch.testing.assert_close(resumed.shares(), whole.shares())
