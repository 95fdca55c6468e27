"""Laws of every companion of training, and a toy that is written here: one class is all that a new companion needs."""

from __future__ import annotations

import contextlib

import pytest
import torch
from small_models import Rows, arguments, collate, encoder, opinionated

from potstill.errors import RecipeError
from potstill.training.companions.catalogue import COMPANIONS, build, kinds
from potstill.training.companions.contract import Companion
from potstill.training.trainer import DistillationTrainer


class Counter(Companion):
    """Notes when it is asked, doubles the objective, and keeps the number of steps in checkpoints."""

    key = "toy-counter"
    title = "the counter"

    def __init__(self):
        self.events, self.steps = [], 0

    def source(self, teacher):
        self.events.append("source")
        return teacher

    def collator(self, base):
        def collator(rows):
            self.events.append("collator")
            return base(rows)

        return collator

    def build(self, host):
        self.events.append("build")

    def begin(self, host):
        self.events.append("begin")

    def objective(self, plain):
        return lambda view, signal, batch: 2 * plain(view, signal, batch)

    def after_step(self):
        self.steps += 1

    def weights(self):
        self.events.append("weights")
        return contextlib.nullcontext()

    def after_last_step(self):
        self.events.append("after_last_step")

    def end(self, host):
        self.events.append("end")

    def state(self):
        return {"steps": torch.tensor(self.steps)}

    def restore(self, state):
        self.steps = int(state["steps"])


def trainer(folder, *, companions=(), **options):
    return DistillationTrainer(
        encoder(seed=1),
        arguments(folder, max_steps=4, **options),
        teacher=opinionated(),
        losses=["kl", "ce"],
        train_dataset=Rows(),
        eval_dataset=Rows(8, seed=5),
        data_collator=collate,
        companions=companions,
    )


def test_a_new_companion_is_one_class(tmp_path):
    toy = Counter()
    run = trainer(tmp_path, companions=[toy], save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2)
    batch = collate([Rows()[row] for row in range(4)])
    assert run.compute_loss(run.model, batch).item() == pytest.approx(
        2 * (plain := trainer(tmp_path / "plain")).compute_loss(plain.model, batch).item()
    )
    run.train()
    assert toy.steps == 4
    order = [toy.events.index(name) for name in ("source", "build", "begin", "weights", "after_last_step", "end")]
    assert order == sorted(order)
    assert "collator" in toy.events


def test_its_state_is_restored_with_a_checkpoint(tmp_path):
    trainer(tmp_path, companions=[Counter()], save_strategy="steps", save_steps=2).train()
    again = Counter()
    run = trainer(tmp_path, companions=[again], save_strategy="steps", save_steps=2)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.steps == 4


def test_a_companion_that_asks_for_nothing_changes_nothing(tmp_path):
    runs = [trainer(tmp_path / name, companions=companions) for name, companions in (("bare", ()), ("idle", [Companion()]))]
    for run in runs:
        run.train()
    first, second = (run.model.state_dict() for run in runs)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("name", COMPANIONS)
def test_entries_of_the_table_are_companions(name):
    (kind,) = kinds({name: {}})
    assert issubclass(kind, Companion)
    assert kind.__doc__ != Companion.__doc__
    assert isinstance(build({name: {}})[0], kind)


def test_a_name_that_is_not_in_the_table():
    with pytest.raises(RecipeError, match=r"companion 'peer' does not exist.*did you mean 'peers'"):
        build({"peer": {}})
