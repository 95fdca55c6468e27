"""What widely used toolkits do wrong while they train, each shown to be absent here.

Faults of single losses (lost τ², two means, wrong axis, signs, norms, infinities) are in tests/losses/test_known_faults.py.
Others that have a test elsewhere: hooks shared between instances (test_taps: test_two_taps_on_one_model_do_not_meet), a
schedule that forgets the weight (test_schedules: test_ends_and_middle), a term of weight zero that is computed
(test_trainer: test_weight_of_zero_leaves_the_term_out), stages without checkpoints (test_stages:
test_killed_stage_run_again_equals_…), peers that run many times or teach each other with gradients (test_online), noise that
is not zero at equality (test_online: test_noise_of_zero_is_the_teacher), an unknown tap that fails far away (test_taps:
test_unknown_need_names_…).
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BatchEncoding, TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from small_models import CLASSES, Explodes, HiddenBridge, Rows, arguments, collate, encoder, opinionated

from potstill.errors import TrainingError
from potstill.knowledge.live import LiveTeacher
from potstill.models.taps import TapReader, Taps
from potstill.training.objective import NonFiniteLoss, Objective
from potstill.training.terms import Term, read_terms
from potstill.training.trainer import DistillationTrainer

KL_CE = [{"name": "kl", "weight": 0.7, "temperature": 2.0}, {"name": "ce", "weight": 0.3}]


def trainer_for(folder, *, losses=KL_CE, teacher=None, student=None, rows=None, collator=collate, callbacks=None, **options):
    return DistillationTrainer(
        student or encoder(seed=1),
        arguments(folder, **options),
        teacher=teacher or opinionated(),
        losses=losses,
        train_dataset=rows or Rows(),
        eval_dataset=Rows(10, seed=4),
        data_collator=collator,
        callbacks=callbacks,
    )


class Normed(nn.Module):
    """A plain net with batch norm and dropout that reads the row's first tokens."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES))

    def forward(self, input_ids):
        return self.net(input_ids[:, :3].float() / 25)


class Wakes(TrainerCallback):
    """Puts a model in train mode before every step, as a careless caller would."""

    def __init__(self, model):
        self.model = model

    def on_step_begin(self, args, state, control, **_):
        self.model.train()


def test_teacher_stays_in_eval_mode_and_its_norms_do_not_move(tmp_path):
    teacher = Normed(seed=3).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer_for(tmp_path, teacher=teacher, student=Normed(seed=1), callbacks=[Wakes(teacher)]).train()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_teacher_that_takes_gradients_is_not_trained(tmp_path):
    teacher = opinionated()
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    before = [parameter.detach().clone() for parameter in teacher.parameters()]
    trainer = trainer_for(tmp_path, teacher=teacher, losses=["kl", "hidden_mse"])
    trainer.train()
    assert all(torch.equal(old, new) for old, new in zip(before, teacher.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    held = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert not held & {id(parameter) for parameter in teacher.parameters()}


def test_teacher_runs_without_a_graph():
    source = LiveTeacher(opinionated(), TapReader(), dtype="float32")
    signal = source.signal(collate(Rows(4).rows), ("logits", "hidden:-1"))
    assert signal.logits.grad_fn is None
    assert all(value.grad_fn is None and not value.requires_grad for value in signal.taps.values())


def test_student_is_not_its_own_teacher(tmp_path):
    student = encoder(seed=1)
    for teacher in (student, student.bert):
        with pytest.raises(TrainingError, match=r"weights in common.*deepcopy"):
            trainer_for(tmp_path, student=student, teacher=teacher)
    trainer_for(tmp_path, student=student, teacher=LiveTeacher(copy.deepcopy(student), TapReader()))
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_student_never_hears_its_labels_in_its_forward(tmp_path):
    student, heard = encoder(seed=1), []
    student.register_forward_pre_hook(lambda _, __, named: heard.append(set(named)), with_kwargs=True)
    trainer_for(tmp_path, student=student, max_steps=2).train()
    assert heard
    assert not set.union(*heard) & {"labels", "row_id", "view"}


def test_memory_of_a_loss_is_in_the_checkpoint_and_restored(tmp_path):
    losses = [{"name": "crd", "negatives": 7, "width": 6}]

    def run(folder, **more):
        trainer = trainer_for(folder, losses=losses, max_steps=6, save_strategy="steps", save_steps=3)
        trainer.train(**more)
        return trainer.objective.modules.state_dict()

    whole = run(tmp_path / "whole")
    assert any(name.endswith("student_memory") for name in whole)
    run(tmp_path / "cut")
    again = run(tmp_path / "cut", resume_from_checkpoint=str(tmp_path / "cut/checkpoint-3"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_checkpoint_does_not_hold_the_teacher(tmp_path):
    trainer_for(tmp_path, losses=[Term("hint", HiddenBridge())], max_steps=2, save_strategy="steps", save_steps=2).train()
    assert set(load_file(tmp_path / "checkpoint-2/model.safetensors")) == set(encoder().state_dict())
    assert {name.split(".")[1] for name in load_file(tmp_path / "checkpoint-2/distill_state.safetensors")} == {"hint"}


def test_callers_losses_and_learning_rate_are_not_changed(tmp_path):
    losses = [{"name": "kl", "weight": {"linear": [5.0, 1.0]}, "temperature": 4.0}, {"name": "ce", "weight": 0.1}]
    before = copy.deepcopy(losses)
    rates = []
    for number in (1, 2):
        trainer = trainer_for(tmp_path / str(number), losses=losses, max_steps=1)
        trainer.train()
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        assert trainer.objective.terms[0].weight(0.0) == 5.0
    assert losses == before
    assert rates[0] == rates[1]


class KeywordHead(nn.Module):
    """Calls its parts by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(input=self.body(input=x))


def test_input_of_a_module_called_by_keyword_is_caught():
    model = KeywordHead()
    _, values = Taps(model, ["head.in"]).run({"x": torch.ones(4, 2)})
    assert torch.equal(values["head.in"], model.body(torch.ones(4, 2)))


def test_last_partial_accumulation_is_a_step(tmp_path):
    seen = []

    def watching(rows):
        batch = collate(rows)
        seen.extend(batch["row_id"].tolist())
        return batch

    trainer = trainer_for(tmp_path, rows=Rows(20), collator=watching, gradient_accumulation_steps=3, num_train_epochs=1)
    trainer.prepare()
    seen.clear()
    trainer.train()
    assert trainer.state.global_step == 2  # five batches: three, and two
    assert sorted(seen[:20]) == [100 + number for number in range(20)]


def test_batches_need_not_be_plain_dicts(tmp_path):
    trainer_for(tmp_path, collator=lambda rows: BatchEncoding(collate(rows)), max_steps=1).train()


def test_evaluation_does_not_depend_on_the_size_of_its_batches(tmp_path):
    found = [trainer_for(tmp_path / str(size), per_device_eval_batch_size=size).evaluate() for size in (1, 4, 10)]
    for metrics in found[1:]:
        for name in ("eval_loss", "eval_loss_kl", "eval_loss_ce", "eval_agreement", "eval_teacher_kl"):
            assert metrics[name] == pytest.approx(found[0][name], rel=1e-5), name


def test_what_is_logged_keeps_no_graph_and_has_its_own_step(tmp_path):
    trainer = trainer_for(tmp_path, num_train_epochs=2, logging_steps=2)
    trainer.train()
    assert trainer.objective._totals.grad_fn is None
    steps = [entry["step"] for entry in trainer.state.log_history if "loss/kl" in entry]
    assert steps == sorted(set(steps)) == list(range(2, 13, 2))


def test_a_step_reads_nothing_from_the_device(tmp_path, monkeypatch):
    terms = read_terms([{"name": "kl"}, {"name": "ce"}, {"name": "logit_mse"}])
    objective = Objective(terms, torch.device("cpu"))
    objective.checks_at_once = False
    trainer = trainer_for(tmp_path)
    trainer.prepare()
    batch = collate(Rows(6).rows)
    objective.begin_step(0.0, objective.count([batch]))
    view, signal = trainer._reader.view(batch), trainer._signal(batch, ("logits",))
    reads = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        kept = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, name=name, kept=kept: (reads.append(name), kept(self))[1])
    objective(view, signal, batch)
    assert reads == []


def test_without_looking_at_batches_the_totals_tell_which_term_is_not_finite(tmp_path):
    terms = [*read_terms([{"name": "kl"}]), Term("boom", Explodes(calls=1))]
    objective = Objective(terms, torch.device("cpu"))
    objective.checks_at_once = objective.checks_batches = False
    trainer = trainer_for(tmp_path)
    trainer.prepare()
    batch = collate(Rows(6).rows)
    objective.begin_step(0.0, objective.count([batch]))
    for call in range(2):
        objective(trainer._reader.view(batch), trainer._signal(batch, ("logits",)), batch)
        if call == 0:
            objective.check()
    with pytest.raises(NonFiniteLoss, match="the loss 'boom' is not finite") as caught:
        objective.check()
    assert caught.value.terms == ("boom",)


@pytest.mark.parametrize("at_once", [True, False])
def test_loss_that_is_not_finite_stops_before_weights_move(tmp_path, at_once):
    def build(folder, losses, **options):
        trainer = trainer_for(folder, losses=losses, logging_steps=100, gradient_accumulation_steps=2, **options)
        trainer.prepare()
        trainer.objective.checks_at_once = at_once
        return trainer

    good = build(tmp_path / "good", [Term("boom", Explodes(calls=99))], max_steps=1)
    good.train()
    trainer = build(tmp_path / "bad", [Term("boom", Explodes(calls=3))])
    with pytest.raises(TrainingError, match="the loss 'boom' is not finite on the batch with the row ids"):
        trainer.train()
    stopped = json.loads((tmp_path / "bad/stopped-at-step-1/stopped.json").read_text("utf-8"))
    assert stopped["step"] == 1
    assert stopped["terms"] == ["boom"]
    assert len(stopped["row_ids"]) == 4
    saved = load_file(tmp_path / "bad/stopped-at-step-1/model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in good.model.state_dict().items())
