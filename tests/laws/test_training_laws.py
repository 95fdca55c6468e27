"""Properties of training that hold however it is cut, cached, stopped or shared."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

SCRIPTS = Path(__file__).parents[1] / "training"
sys.path.insert(0, str(SCRIPTS))
CUTS = [(1, 8, 1), (1, 4, 2), (1, 2, 4), (2, 4, 1), (2, 2, 2), (2, 1, 4)]


def one_step(folder: Path, ranks: int, batch: int, accumulation: int) -> dict:
    if ranks == 1:
        from rank_step import step

        return step(str(folder), batch=batch, accumulation=accumulation)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    file = folder / f"{ranks}-{batch}-{accumulation}.pt"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, str(SCRIPTS / "rank_step.py")]
    runs = [
        subprocess.Popen([*command, str(rank), str(ranks), str(batch), str(accumulation), port, str(file)], env=environment)
        for rank in range(ranks)
    ]
    assert [run.wait(timeout=240) for run in runs] == [0] * ranks
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return one_step(tmp_path_factory.mktemp("whole"), *CUTS[0])


@pytest.mark.parametrize(
    "cut",
    [CUTS[1], CUTS[2], CUTS[4], pytest.param(CUTS[3], marks=pytest.mark.slow), pytest.param(CUTS[5], marks=pytest.mark.slow)],
)
def test_gradient_does_not_depend_on_accumulation_and_ranks(tmp_path, whole, cut):
    other = one_step(tmp_path, *cut)
    assert whole["gradients"].keys() == other["gradients"].keys()
    assert any("_distill" in name for name in whole["gradients"])
    for name, gradient in whole["gradients"].items():
        assert torch.allclose(gradient, other["gradients"][name], atol=1e-5, rtol=1e-5), name
    for name, value in whole["logged"].items():
        assert other["logged"][name] == pytest.approx(value, rel=1e-5), name
    assert other["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-3)


class Modes(TrainerCallback):
    """Notes at every step which modules of the student are not in train mode, and which of the teacher's are."""

    def __init__(self, teacher):
        self.teacher, self.wrong = teacher, []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.wrong += [f"student {name} at {state.global_step}" for name, part in model.named_modules() if not part.training]
        self.wrong += [f"teacher {name} at {state.global_step}" for name, part in self.teacher.named_modules() if part.training]


def test_student_trains_and_teacher_rests_at_every_step(tmp_path):
    from small_models import Rows, arguments, collate, encoder, opinionated

    from potstill.training.trainer import DistillationTrainer

    teacher = opinionated()
    teacher.register_buffer("seen", torch.zeros(3))
    before = {name: value.clone() for name, value in [*teacher.named_parameters(), *teacher.named_buffers()]}
    modes = Modes(teacher)
    trainer = DistillationTrainer(
        encoder(seed=1),
        arguments(tmp_path, num_train_epochs=2, eval_strategy="steps", eval_steps=3),
        teacher=teacher,
        losses=["kl", "hidden_mse", "tinybert_attention", "ce"],
        train_dataset=Rows(),
        eval_dataset=Rows(8),
        data_collator=collate,
        callbacks=[modes],
    )
    trainer.train()
    assert trainer.state.global_step == 12
    assert modes.wrong == []
    after = dict([*teacher.named_parameters(), *teacher.named_buffers()])
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert not [name for name in trainer.model.state_dict() if name.startswith("_distill")]
