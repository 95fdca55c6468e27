"""Steps that a benchmark records as graphs are those that it would take eagerly."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from beside import Learner, Settings, measure, train_epoch
from cifar_device import DeviceRows
from cifar_nets import PAIRS, resnet
from method_cells import METHODS, stages_of
from potstill.knowledge.live import LiveTeacher
from potstill.models.taps import TapReader
from recorded import EAGER_STEPS, Desk, Lane

pytestmark = pytest.mark.gpu

BATCH, EPOCHS, SEED = 16, 3, 3


@pytest.fixture(autouse=True)
def same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two eager runs differ as well where cuDNN adds up in any order, and steep losses make much of it."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def rows_of(folder: Path) -> DeviceRows:
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (BATCH * (EAGER_STEPS + 3), 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "rows.npz", pixels=pixels, labels=chance.integers(0, 10, len(pixels)))
    return DeviceRows(folder / "rows.npz", torch.device("cuda"), seed=SEED)


def net(seed: int, depth: int, widths: tuple[int, ...]) -> torch.nn.Module:
    torch.manual_seed(seed)
    return resnet(depth, widths, 10).to("cuda", memory_format=torch.channels_last)


def trained(methods: tuple[str, ...], folder: Path, lanes: list[Lane | None]) -> dict[str, dict[str, torch.Tensor]]:
    rows, source = rows_of(folder), LiveTeacher(net(1, 14, (16, 16, 40)), TapReader(), dtype="float32")
    learners = []
    for number, method in enumerate(methods):
        student = net(SEED, 8, (8, 16, 32))
        stages = stages_of(method, PAIRS["vgg13-vgg8"], student, source.model, EPOCHS, batch=BATCH)
        settings = Settings(BATCH, EPOCHS, SEED, is_half=False)
        learners.append(Learner(method, student, stages, source, rows, settings, lanes[number % len(lanes)]))
    desk = None if lanes[0] is None else Desk()
    for epoch in range(EPOCHS):
        train_epoch(source, learners, rows, epoch, desk)
        measure(learners, rows)
    assert [each.fault for each in learners] == [None] * len(methods)
    return {each.name: each.net.state_dict() for each in learners}


@pytest.mark.parametrize("method", METHODS)
def test_recorded_steps_are_the_eager_ones(method: str, tmp_path: Path) -> None:
    (eager,) = trained((method,), tmp_path, [None]).values()
    (recorded,) = trained((method,), tmp_path, [Lane()]).values()
    for name, value in eager.items():
        torch.testing.assert_close(recorded[name], value, rtol=1e-4, atol=1e-5, msg=f"{method} {name}")


def test_lanes_beside_each_other_change_nothing(tmp_path: Path) -> None:
    methods = ("baseline", "kd", "sp", "dkd")
    together = trained(methods, tmp_path, [Lane(), Lane()])
    for method in methods:
        (alone,) = trained((method,), tmp_path, [Lane()]).values()
        assert all(
            torch.allclose(value.float(), alone[name].float(), rtol=1e-4, atol=1e-5) for name, value in together[method].items()
        )
