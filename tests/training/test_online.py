"""Peers, the student's own average, noise and pairs of classes: what they compute, and that a resumed run is the same."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import CLASSES, HiddenBridge, Remembered, Rows, arguments, collate, encoder, opinionated
from torch import nn

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, RecipeError, TrainingError
from potstill.knowledge.live import LiveTeacher
from potstill.knowledge.noisy import NoisyTeacher
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses import functional as F
from potstill.models.taps import TapReader
from potstill.training.companions.average import Averaging, SelfAverage, WeightAverage
from potstill.training.companions.class_pairs import ClassPairBatches
from potstill.training.companions.peers import Peers
from potstill.training.order import ShuffledBatches
from potstill.training.trainer import DistillationTrainer

MUTUAL = [{"name": "kl", "temperature": 1.0}, "ce"]


def accuracy(prediction):
    known = prediction.label_ids != -100
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids)[known].mean())}


def trainer(folder, *, model=None, rows=None, **options):
    settings = {
        name: options.pop(name) for name in tuple(options) if name in ("losses", "teacher", "peers", "average_decay", "balance")
    }
    return DistillationTrainer(
        encoder(seed=1, dropout=options.pop("dropout", 0.0)) if model is None else model,
        arguments(folder, **options),
        losses=settings.pop("losses", MUTUAL),
        train_dataset=rows or Rows(),
        eval_dataset=Rows(8, seed=5),
        data_collator=collate,
        compute_metrics=accuracy,
        selection=lambda metrics: metrics["accuracy"],
        **settings,
    )


def forwards(model):
    """Counts the forwards of a model."""
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("count", [2, 3])
def test_peers_run_once_per_step_and_learn_from_each_other(tmp_path, count):
    peers = Peers(count)
    run = trainer(tmp_path, peers=peers, max_steps=3)
    run.prepare()
    calls = [forwards(network) for network in (run.model, *peers.others)]
    before = [parameter.clone() for parameter in peers.others[0].parameters()]
    run.train()
    assert [len(each) for each in calls] == [3] * count
    assert any(not torch.equal(old, new) for old, new in zip(before, peers.others[0].parameters()))


def test_objective_of_peers_is_the_sum_of_the_papers_losses(tmp_path):
    peers = Peers(3, start="random")
    run = trainer(tmp_path, peers=peers)
    run.prepare()
    batch = collate([Rows()[i] for i in range(6)])
    networks = [run.model, *peers.others]
    found = run.compute_loss(run.model, batch)
    found.backward()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    gradients = [network.classifier.weight.grad.clone() for network in networks]
    logits = [network(**inputs).logits for network in networks]
    for number, network in enumerate(networks):
        network.zero_grad()
        others = [other.detach() for index, other in enumerate(logits) if index != number]
        mutual = sum(F.kl(logits[number], other, temperature=1.0) for other in others) / 2
        (nn.functional.cross_entropy(logits[number], batch["labels"], ignore_index=-100) + mutual).backward(retain_graph=True)
        assert torch.allclose(network.classifier.weight.grad, gradients[number], atol=1e-6)


def test_a_peer_without_exchange_trains_as_it_would_alone(tmp_path):
    alone = trainer(tmp_path / "alone", losses=["ce"], max_steps=6, max_grad_norm=0.05, weight_decay=0.1)
    alone.train()
    beside = trainer(tmp_path / "beside", losses=["ce"], peers=Peers(2), max_steps=6, max_grad_norm=0.05, weight_decay=0.1)
    beside.train()
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, beside.model.state_dict()[name]), name


def test_peers_begin_apart_and_always_the_same_way(tmp_path):
    for start in ("student", "random"):
        built = []
        for _ in range(2):
            peers = Peers(3, start=start)
            trainer(tmp_path, peers=peers).prepare()
            built.append(peers.others)
        first, second = (other.state_dict() for other in built[0])
        own = encoder(seed=1).state_dict()
        assert all(torch.equal(value, built[1][0].state_dict()[name]) for name, value in first.items())
        assert not torch.equal(first["classifier.weight"], second["classifier.weight"])
        body = "bert.encoder.layer.0.attention.self.query.weight"
        assert torch.equal(first[body], own[body]) == (start == "student")


def test_the_best_peer_is_kept_and_the_others_are_told(tmp_path, caplog):
    peers = Peers(3, start="random")
    run = trainer(
        tmp_path,
        peers=peers,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="selection",
        max_steps=8,
        learning_rate=5e-3,
    )
    with caplog.at_level(logging.INFO):
        run.train()
    told = [entry for entry in run.state.log_history if "eval_best_peer" in entry]
    step = int(run.state.best_model_checkpoint.rpartition("-")[2])
    best = next(entry for entry in told if entry["step"] == step)
    number = int(best["eval_best_peer"])
    singles = [best[f"eval_peer_{k}_accuracy"] for k in (1, 2, 3)]
    assert best["eval_accuracy"] == max(singles) == singles[number - 1]
    assert f"network {number} of 3 peers is kept" in caplog.text
    assert run.evaluate()["eval_peer_1_accuracy"] == best["eval_accuracy"]
    assert not [name for name in run.model.state_dict() if "_distill" in name]


@pytest.mark.parametrize("beside", ["peers", "average", "noise"])
def test_resumed_online_run_equals_an_uninterrupted_one(tmp_path, beside):
    def build(folder, **options):
        if beside == "peers":
            return trainer(folder, peers=Peers(2, start="random"), dropout=0.2, save_strategy="steps", save_steps=3, **options)
        if beside == "average":
            losses = ["ce", {"name": "logit_mse"}]
            given = {"teacher": SelfAverage(), "average_decay": 0.9, "losses": losses}
        else:
            source = NoisyTeacher(LiveTeacher(opinionated(), TapReader(), dtype="float32"))
            given = {"teacher": source, "losses": ["logit_mse"]}
        return trainer(folder, dropout=0.2, save_strategy="steps", save_steps=3, **given, **options)

    whole = build(tmp_path / "whole", max_steps=8)
    whole.train()
    build(tmp_path / "cut", max_steps=8).train()
    again = build(tmp_path / "cut", max_steps=8)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    states = [{**run.model.state_dict(), **run.objective.modules.state_dict()} for run in (whole, again)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_peers_are_saved_beside_the_student_and_not_in_it(tmp_path):
    from safetensors.torch import load_file

    run = trainer(tmp_path, peers=Peers(2), max_steps=2, save_strategy="steps", save_steps=2)
    run.train()
    student = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    beside = load_file(tmp_path / "checkpoint-2" / "distill_state.safetensors")
    assert set(student) == set(encoder().state_dict())
    assert len(beside) == len(student)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"teacher": opinionated()}, "peers are given together with a teacher"),
        ({"average_decay": 0.9}, "peers are given together with average_decay"),
        ({"balance": "uncertainty"}, "peers are given together with balance"),
    ],
)
def test_peers_stand_in_for_a_teacher(tmp_path, given, words):
    with pytest.raises(TrainingError, match=words):
        trainer(tmp_path, peers=Peers(2), **given)


def test_what_peers_refuse(tmp_path):
    with pytest.raises(RecipeError, match="a whole number from 2 to 8"):
        Peers(1)
    with pytest.raises(RecipeError, match="student, random"):
        Peers(2, start="zero")  # type: ignore[arg-type]
    with pytest.raises(NeedsError, match="peers compare logits"):
        trainer(tmp_path, peers=Peers(2), losses=["kl", HiddenBridge()]).prepare()
    host = SimpleNamespace(model=nn.Sequential(nn.Conv2d(3, 4, 3)), args=SimpleNamespace(seed=0))
    with pytest.raises(NeedsError, match="set start: random"):
        Peers(2).build(host)  # type: ignore[arg-type]


def test_average_teaches_with_the_averaged_weights(tmp_path):
    run = trainer(tmp_path, teacher=SelfAverage(noise=False), average_decay=0.9, losses=["ce", "logit_mse"], max_steps=4)
    run.train()
    batch = collate([Rows()[i] for i in range(4)])
    run = trainer(tmp_path, teacher=SelfAverage(noise=False), average_decay=0.9, losses=["ce", "logit_mse"], max_steps=4)
    heard = []

    def listen(batch, needs):
        signal = SelfAverage.training_signal(run.source, batch, needs)
        with run._final_weights(), torch.no_grad():
            heard.append((signal.logits, run.model.eval()(**run._reader.inputs(batch)).logits))
            run.model.train()
        return signal

    run.source.training_signal = listen
    run.train()
    assert len(heard) == 4
    assert all(torch.allclose(*pair, atol=1e-6) for pair in heard)
    assert torch.isfinite(run.source.signal(batch).logits).all()


def test_average_needs_a_decay(tmp_path):
    with pytest.raises(TrainingError, match=r"set average_decay=0\.999"):
        trainer(tmp_path, teacher=SelfAverage(), losses=["kl"], max_steps=1).train()


def test_average_leaves_modes_as_they_were(tmp_path):
    model = encoder(dropout=0.3).train()
    model.bert.embeddings.eval()
    modes = [module.training for module in model.modules()]
    source = SelfAverage()
    source.build(SimpleNamespace(model=model, view_of=lambda taps, batch: model(**batch)))
    batch = {"input_ids": torch.ones(2, 4, dtype=torch.long)}
    assert torch.equal(source.signal(batch).logits, source.signal(batch).logits)
    assert [module.training for module in model.modules()] == modes


def test_average_follows_the_statistics_of_norms():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model[1].running_mean.fill_(8.0)
    average.update()
    with average.applied():
        assert float(model[1].running_mean[0]) == pytest.approx(7.2)
    assert float(model[1].running_mean[0]) == 8.0


class Known:
    """Fixed answers."""

    fingerprint = "known"

    def can_provide(self, need):
        return need == "logits"

    def signal(self, batch, needs=("logits",)):
        return TeacherSignal(DenseLogits(torch.full((len(batch["row_id"]), CLASSES), 2.0)))


def test_noise_has_the_papers_law_and_spares_evaluation():
    torch.manual_seed(0)
    source = NoisyTeacher(Known(), sigma=0.3, share=0.5)
    batch = {"row_id": torch.arange(20_000)}
    noisy = source.training_signal(batch).logits
    changed = (noisy != 2.0).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float((noisy[changed] / 2 - 1).std()) == pytest.approx(0.3, rel=0.02)
    assert float((noisy[changed] / 2 - 1).mean()) == pytest.approx(0.0, abs=0.01)
    assert torch.equal(source.signal(batch).logits, Known().signal(batch).logits)


def test_noise_of_zero_is_the_teacher(tmp_path):
    runs = []
    for source in (Remembered(opinionated(), Rows()), NoisyTeacher(Remembered(opinionated(), Rows()), sigma=0.0)):
        run = DistillationTrainer(
            encoder(seed=1),
            arguments(tmp_path, max_steps=3),
            teacher=source,
            losses=["logit_mse"],
            train_dataset=Rows(),
            data_collator=collate,
        )
        run.train()
        runs.append(run.model.state_dict())
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


@pytest.mark.parametrize(("given", "words"), [({"sigma": -1}, "a number from 0"), ({"share": 2}, "a number from 0 to 1")])
def test_noise_that_is_refused(given, words):
    with pytest.raises(RecipeError, match=words):
        NoisyTeacher(Known(), **given)


def test_every_labelled_row_meets_another_of_its_class():
    labels = np.array([0, 1, 2, 0, 1, -100, 0, 7, 2, 1])
    batches = ClassPairBatches(ShuffledBatches(10, 4, seed=3), labels, seed=3)
    drawn = {}
    for epoch in range(20):
        batches.set_epoch(epoch)
        whole = list(batches)
        assert whole == list(batches)
        plain = ShuffledBatches(10, 4, seed=3)
        plain.set_epoch(epoch)
        for batch, rows in zip(whole, plain):
            assert batch[: len(rows)] == rows
            paired = [row for row in rows if row not in (5, 7)]
            partners = batch[len(rows) :]
            assert [labels[row] for row in partners] == [labels[row] for row in paired]
            for row, partner in zip(paired, partners):
                assert row != partner
                drawn.setdefault(row, set()).add(partner)
    assert drawn[0] == {3, 6}
    assert len(batches) == 3


def test_the_average_answers_with_dropout_within_attention_too(tmp_path):
    student = encoder(seed=1)
    for layer in student.bert.encoder.layer:
        layer.attention.self.dropout_prob = layer.attention.self.dropout.p = 0.5
    student.train()
    source = SelfAverage()
    averaging = Averaging(0.9)
    host = SimpleNamespace(model=student, companions=[averaging], view_of=lambda taps, batch: student(**batch))
    averaging.begin(host)
    source.build(host)
    batch = {name: collate(Rows(4).rows)[name] for name in ("input_ids", "attention_mask")}
    first, second = (source.training_signal(batch).logits for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(source.signal(batch).logits, source.signal(batch).logits)
    assert all(part.training for part in student.modules())
