"""Properties of training that hold however it is cut, cached, stopped or shared."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "training"
CUTS = [(1, 8, 1), (1, 4, 2), (1, 2, 4), (2, 4, 1), (2, 2, 2), (2, 1, 4)]


def one_step(folder: Path, ranks: int, batch: int, accumulation: int) -> dict:
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
    [
        CUTS[2],
        CUTS[4],
        pytest.param(CUTS[1], marks=pytest.mark.slow),
        pytest.param(CUTS[3], marks=pytest.mark.slow),
        pytest.param(CUTS[5], marks=pytest.mark.slow),
    ],
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
