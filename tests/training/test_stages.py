"""A stage on disk: resumed, chosen, not done twice."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_models import Rows, collate, encoder, opinionated
from stage_run import Accuracy, run
from transformers import TrainerCallback

from potstill.errors import TrainingError
from potstill.training.phase_settings import PhaseSettings
from potstill.training.phases import train_phase

HERE = Path(__file__).parent


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_best_weights_are_kept_and_the_stage_is_not_done_twice(tmp_path):
    outcome, steps = run(tmp_path)
    evaluations = [entry for entry in outcome.history if "eval_accuracy" in entry]
    assert outcome.best["eval_selection"] == max(entry["eval_selection"] for entry in evaluations)
    assert outcome.steps == 36
    assert steps[-1] == 36
    assert not outcome.model.training
    assert not (tmp_path / "checkpoints").exists()
    again, told = run(tmp_path)
    assert told == []
    assert again.best == outcome.best
    assert same(again.model.state_dict(), outcome.model.state_dict())


def test_killed_stage_run_again_equals_an_uninterrupted_one(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "stage_run.py"), str(tmp_path / "killed"), str(tmp_path / "killed.pt")]
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 200
    while not (tmp_path / "killed" / "checkpoints" / "checkpoint-12" / "trainer_state.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "trained.json").exists()
    again, steps = run(tmp_path / "killed")
    assert again.is_resumed
    assert 12 < steps[0] < 30
    whole, _ = run(tmp_path / "whole")
    assert same(again.model.state_dict(), whole.model.state_dict())
    assert again.best["eval_selection"] == whole.best["eval_selection"]


def test_patience_and_fidelity(tmp_path):
    outcome, _ = run(tmp_path, epochs=40, evaluations=40, patience=2, select="fidelity", average_decay=None)
    kept = min(entry["eval_teacher_kl"] for entry in outcome.history if "eval_teacher_kl" in entry)
    assert outcome.best["eval_teacher_kl"] == kept
    assert outcome.steps < 240


def test_new_head_has_its_own_rate_and_no_evaluation_is_needed(tmp_path):
    outcome = train_phase(
        encoder(),
        rows=Rows(8),
        collator=collate,
        folder=tmp_path,
        terms=["ce"],
        settings=PhaseSettings(epochs=1, head_multiple=10.0, max_steps=3, batch_size=4),
    )
    assert outcome.steps == 3
    assert outcome.best == {}


def test_no_rows_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no rows to train on"):
        train_phase(encoder(), rows=Rows(0), collator=collate, folder=tmp_path, terms=["ce"])


@pytest.mark.parametrize("learning_rate", [1e-1, 1e-4])
def test_the_start_is_kept_where_no_later_weights_are_closer_to_the_teacher(tmp_path, learning_rate):
    teacher = opinionated()
    student = copy.deepcopy(teacher).train()
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    outcome = train_phase(
        student,
        rows=Rows(24),
        eval_rows=Rows(12, seed=3),
        collator=collate,
        folder=tmp_path,
        task=Accuracy(),
        teacher=teacher,
        terms=["ce"],
        settings=PhaseSettings(epochs=1, learning_rate=learning_rate, batch_size=4, select="fidelity", average_decay=0.9),
    )
    assert outcome.best["step"] == 0
    assert outcome.best["eval_teacher_kl"] == pytest.approx(0, abs=1e-6)
    assert same(outcome.model.state_dict(), teacher.state_dict())
    assert not outcome.model.training


class Interruption(TrainerCallback):
    """Stops the process's training once a step has been saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_patience_counts_on_after_an_interruption(tmp_path):
    def stage(name, *callbacks):
        settings = PhaseSettings(
            epochs=30, learning_rate=3e-2, batch_size=4, evaluations=30, patience=4, schedule="constant_with_warmup"
        )
        return train_phase(
            encoder(seed=1),
            rows=Rows(24),
            eval_rows=Rows(12, seed=3),
            collator=collate,
            folder=tmp_path / name,
            task=Accuracy(),
            teacher=opinionated(),
            terms=["kl", "ce"],
            settings=settings,
            callbacks=callbacks,
        )

    whole = stage("whole")
    assert whole.steps < 180, "it is patience that ends it"
    with pytest.raises(KeyboardInterrupt):
        stage("broken", Interruption(whole.steps - 6))
    again = stage("broken")
    assert again.is_resumed
    assert again.steps == whole.steps
    assert same(again.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_fitted_head_is_part_of_the_start_that_is_kept(tmp_path, is_interrupted):
    teacher = opinionated()
    student = copy.deepcopy(teacher)
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    with torch.no_grad():
        student.classifier.weight.zero_()

    def stage(model, *callbacks):
        settings = PhaseSettings(epochs=2, learning_rate=1e-1, batch_size=16, select="fidelity", starts_head=True)
        return train_phase(
            model,
            rows=Rows(64),
            eval_rows=Rows(12, seed=3),
            collator=collate,
            folder=tmp_path,
            task=Accuracy(),
            teacher=teacher,
            terms=["ce"],
            settings=settings,
            callbacks=callbacks,
        )

    if is_interrupted:
        with pytest.raises(KeyboardInterrupt):
            stage(copy.deepcopy(student), Interruption(5))
    outcome = stage(student)
    assert outcome.best["step"] == 0
    batch = collate([Rows(12, seed=3)[index] for index in range(12)])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        own, other = student(**inputs).logits.log_softmax(-1), teacher(**inputs).logits.log_softmax(-1)
    assert float((other.exp() * (other - own)).sum(-1).mean()) == pytest.approx(outcome.best["eval_teacher_kl"], abs=1e-5)
