"""Factors of terms: by phase, by gradient norm, by learned variances; the law of normalisation and of resuming holds for all."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from small_models import HiddenBridge, Rows, arguments, collate, encoder, opinionated
from torch import nn

from potstill.contracts.signal import TeacherSignal
from potstill.errors import RecipeError
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses import build as build_loss
from potstill.losses.contract import StudentView
from potstill.losses.functional import kl
from potstill.recipe.model import DistillRecipe
from potstill.training import balance
from potstill.training.objective import BALANCE_KEY, Objective
from potstill.training.schedules import PerSample, parse_temperature
from potstill.training.terms import Term, read_terms
from potstill.training.trainer import DistillationTrainer

THREE = [{"name": "kl", "weight": 0.7}, {"name": "ce", "weight": 0.3}, {"name": "hidden_mse", "weight": 100.0}]
BALANCES = list(balance.BALANCES)


def trainer_for(folder, name, *, losses=THREE, **options):
    rows = options.pop("rows", None) or Rows()
    return DistillationTrainer(
        options.pop("student", None) or encoder(seed=1, width=24),
        arguments(folder, **options),
        teacher=opinionated(),
        losses=losses,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collate,
        balance=name,
    )


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


class Doubled(balance.Balance):
    """A balance that a test adds: the first term counts twice."""

    def __init__(self, losses, parameters):
        super().__init__(losses, parameters)
        self.count = len(losses)

    def factors(self, progress):
        return [2.0] + [1.0] * (self.count - 1)


def test_a_balance_is_one_class_and_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(balance.BALANCES, "doubled", f"{__name__}:Doubled")
    twice = [{**THREE[0], "weight": 2 * THREE[0]["weight"]}, *THREE[1:]]
    found = []
    for name, losses in (("doubled", THREE), ("none", twice)):
        run = trainer_for(tmp_path / name, name, losses=losses, max_steps=3)
        run.train()
        found.append(weights(run.model))
    assert same(*found)


def test_a_recipe_knows_the_balances_of_the_table():
    known = get_args(DistillRecipe.model_fields["balance"].annotation)
    assert known == (balance.OFF, *balance.BALANCES)


def test_phases_have_the_shares_of_the_literature():
    phased = balance.Phases([build_loss("kl"), build_loss("ce"), build_loss("hidden_mse")], {})
    early, late = phased.factors(0.2), phased.factors(0.5)
    assert early == pytest.approx([0.6, 0.6, 1.4])
    assert late == pytest.approx([1.2, 1.2, 0.8])
    assert early[2] / (early[0] + early[2]) == pytest.approx(balance.EARLY_FEATURES)
    assert late[0] / (late[0] + late[2]) == pytest.approx(balance.LATE_TASK)
    assert balance.Phases([build_loss("kl"), build_loss("ce")], {}).factors(0.2) == [1.0, 1.0]


def test_variances_learn_the_size_of_their_losses():
    learned = balance.Uncertainty([build_loss("kl"), build_loss("ce")], {})
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.05)
    sizes = [0.05, 8.0]
    for _ in range(800):
        optimizer.zero_grad()
        factors = learned.factors(0.0)
        total = sum(factors[k] * sizes[k] + learned.penalty(k, 0.25) + learned.penalty(k, 0.75) for k in range(2))
        total.backward()
        optimizer.step()
    assert learned.log_variances.tolist() == pytest.approx([math.log(2 * size) for size in sizes], abs=0.02)


def test_gradient_norms_become_equal(tmp_path):
    trainer = trainer_for(tmp_path, "gradient_norm", num_train_epochs=1)
    trainer.train()
    held = trainer.objective.balance
    factors = held.factors(0.0)
    assert int(held.shared) >= 0
    pulls = [factor * float(norm) for factor, norm in zip(factors, held.norms)]
    assert pulls == pytest.approx([float(held.norms.mean())] * 3, rel=1e-4)
    assert factors[2] != 1.0


def test_the_shared_matrix_is_the_last_that_every_term_reaches(tmp_path):
    trainer = trainer_for(tmp_path, "gradient_norm", losses=["kl", {"name": "hidden_mse", "layers": [[1, 1]]}], max_steps=2)
    names = [name for name, value in trainer.model.named_parameters() if value.dim() > 1]
    trainer.train()
    assert names[int(trainer.objective.balance.shared)] == "bert.encoder.layer.0.output.dense.weight"


@pytest.mark.parametrize("name", BALANCES)
def test_every_balance_trains_and_goes_on_after_an_interruption_as_if_there_had_been_none(tmp_path, name, monkeypatch):
    monkeypatch.setattr(balance, "MEASURED_EVERY_STEPS", 3)

    def trainer(folder):
        return trainer_for(folder, name, num_train_epochs=3, save_strategy="steps", save_steps=4)

    whole = trainer(tmp_path / "whole")
    whole.train()
    resumed = trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-8"))
    assert same(weights(whole.model), weights(resumed.model))
    assert same(whole.objective.balance.state_dict(), resumed.objective.balance.state_dict())
    plain = trainer_for(tmp_path / "plain", "none", num_train_epochs=3)
    plain.train()
    assert not same(weights(plain.model), weights(whole.model)), "the balance has an effect"
    assert not any("_distill" in key for key in weights(whole.model))


@pytest.mark.parametrize("name", BALANCES)
def test_a_balance_gives_the_same_gradient_however_the_batch_is_cut(tmp_path, name, monkeypatch):
    monkeypatch.setattr(balance, "MEASURED_EVERY_STEPS", 2)
    found = []
    for size, accumulation in ((8, 1), (4, 2), (2, 4)):
        trainer = trainer_for(
            tmp_path / str(size),
            name,
            losses=["kl", "ce", Term("hint", HiddenBridge())],
            rows=Rows(with_lengths=False),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=2,
            optim="sgd",
            max_grad_norm=1e9,
        )
        trainer.train()
        found.append(weights(trainer.model) | trainer.objective.balance.state_dict())
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_variances_learn_faster_than_the_student_and_stay_out_of_it(tmp_path):
    trainer = trainer_for(tmp_path, "uncertainty", max_steps=3)
    trainer.train()
    held = trainer.objective.modules[BALANCE_KEY].log_variances
    group = next(g for g in trainer.optimizer.param_groups if any(p is held for p in g["params"]))
    assert group["lr"] == pytest.approx(100 * 1e-3)
    assert group["weight_decay"] == 0.0
    assert bool((held != 0).all())


def test_one_term_has_nothing_to_be_balanced_with(tmp_path):
    trainer = trainer_for(tmp_path, "gradient_norm", losses=["kl"])
    trainer.prepare()
    assert trainer.objective.balance is None


@pytest.mark.parametrize(
    ("name", "losses", "message"),
    [
        ("gradnorm", THREE, r"balance is 'gradnorm'\. Accepted: none, phases, gradient_norm, uncertainty\. What to do: write"),
        ("uncertainty", ["kl", "vid"], r"given with the loss 'vid', whose values may be negative"),
        ("uncertainty", ["kl", "pad"], r"given with the loss 'pad', whose values may be negative"),
        ("uncertainty", ["kl", "srd"], r"given with the loss 'srd', whose values may be negative"),
    ],
)
def test_balances_that_cannot_work_are_refused(tmp_path, name, losses, message):
    with pytest.raises(RecipeError, match=message):
        trainer_for(tmp_path, name, losses=losses).prepare()


def test_a_temperature_per_sample_is_the_loss_of_each_row_at_its_own(tmp_path):
    heat = parse_temperature({"per_sample": [1, 5]}, name="temperature")
    assert heat == PerSample(1.0, 5.0)
    rows = Rows(8, with_lengths=False)
    losses = [{"name": "kl", "temperature": {"per_sample": [1, 5]}}]
    trainer = trainer_for(tmp_path, "none", losses=losses, rows=rows)
    trainer.prepare()
    batch = collate(rows.rows)
    trainer.model.eval()
    found = trainer.compute_loss(trainer.model, batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        student, teacher = trainer.model(**inputs).logits, trainer.source.model(**inputs).logits
    expected = []
    for own, other in zip(student, teacher):
        p = other.softmax(-1)
        certainty = 1 + float((p * p.log()).sum()) / math.log(3)
        expected.append(float(kl(own[None], other[None], temperature=1 + 4 * certainty)))
    assert float(found.detach()) == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert trainer.objective.terms[0].loss.temperature == 3.0, "where rows are measured together, the middle counts"
    trainer.train()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"per_sample": [0, 2]}, r"\{per_sample: \[low, high\]\} with 0 < low ≤ high"),
        ({"per_sample": 2}, r"\{per_sample: \[low, high\]\} with 0 < low ≤ high"),
        ({"per_smple": [1, 2]}, r"has the schedule 'per_smple', which does not exist"),
    ],
)
def test_temperatures_per_sample_that_cannot_work_are_refused(value, message):
    with pytest.raises(RecipeError, match=message):
        parse_temperature(value, name="temperature")


def test_losses_with_one_temperature_refuse_one_per_sample():
    with pytest.raises(RecipeError, match=r"the loss 'dkd' has a temperature per sample.*What to do: take the loss kl"):
        read_terms([{"name": "dkd", "temperature": {"per_sample": [1, 4]}}])


def test_a_variance_at_its_bound_finds_back():
    held = balance.Uncertainty([build_loss("kl"), build_loss("ce")], {})
    optimizer = torch.optim.SGD(held.parameters(), lr=0.5)
    for value, num_steps in ((1e-4, 40), (10.0, 400)):
        for _ in range(num_steps):
            optimizer.zero_grad()
            factors = held.factors(0.0)
            sum(factor * value + held.penalty(index, 1.0) for index, factor in enumerate(factors)).backward()
            nn.utils.clip_grad_norm_(held.parameters(), 1.0)
            optimizer.step()
            held.after_step([1.0, 1.0], 1)
        assert bool((held.log_variances.abs() <= balance.LARGEST_LOG_VARIANCE).all())
    assert held.log_variances.tolist() == pytest.approx([math.log(20)] * 2, abs=0.1)


def test_a_term_that_pulls_at_no_matrix_leaves_the_others_balanced():
    first = nn.Parameter(torch.ones(2, 2))
    held = balance.GradientNorm([build_loss(name) for name in ("kl", "ce", "logit_mse")], {"first": first})
    apart = nn.Parameter(torch.ones(()))
    for _ in range(2):
        for position, part in enumerate((first.sum(), 10 * first.sum(), apart * 1.0)):
            held.measure(position, part)
        held.after_step([1.0, 1.0, 1.0], 1)
    found = held.factors(0.0)
    assert found[0] == pytest.approx(10 * found[1])
    assert found[2] == 1.0


def test_words_have_a_temperature_of_the_words_that_count():
    terms = read_terms([{"name": "kl", "temperature": {"per_sample": [1, 5]}}])
    objective = Objective(terms, torch.device("cpu"))
    found = []
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 2, 3), torch.randn(1, 2, 3)
    for width in (2, 5, 9):
        padded = [torch.nn.functional.pad(value, (0, 0, 0, width - 2)) for value in (student, teacher)]
        counts = torch.arange(width)[None] < 2
        view = StudentView(padded[0], token_mask=torch.ones(1, 12), unit_mask=counts)
        found.append(float(objective._value(terms[0], view, TeacherSignal(DenseLogits(padded[1])), {}).sum))
    assert found == pytest.approx([found[0]] * 3)
