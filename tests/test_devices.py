"""Where models run, told on a machine with or without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from potstill.doctor import _look
from potstill.ground import devices, hardware
from potstill.knowledge.live import LiveTeacher


class Travels(nn.Linear):
    """Notes where it is sent to, and goes nowhere."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.sent: list[str] = []

    def to(self, *args, **_):
        self.sent.append(str(args[0]))
        return self


def test_without_a_gpu_and_where_it_is_refused_the_cpu_computes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.compute_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert devices.compute_device() == torch.device("cpu")


def test_every_rank_has_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert devices.compute_device() == torch.device("cuda", 0)
    assert devices.exact("cuda") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert devices.compute_device() == torch.device("cuda", 3)


def test_a_model_is_brought_back_also_after_an_error(monkeypatch):
    monkeypatch.setattr(devices, "compute_device", lambda: torch.device("meta"))
    model = Travels()
    with pytest.raises(ValueError), devices.placed(model):
        raise ValueError
    assert model.sent == ["meta", "cpu"]
    with devices.placed(model, "cpu"):
        assert model.sent == ["meta", "cpu"]


def test_row_ids_do_not_say_where_a_batch_is():
    batch = {"row_id": torch.arange(2), "pixel_values": torch.ones(2, device="meta")}
    assert devices.device_of_batch(batch) == torch.device("meta")
    assert devices.device_of_batch({"row_id": torch.arange(2)}) == torch.device("cpu")


def test_draws_are_seeded_and_the_state_is_put_back():
    before = torch.get_rng_state()
    with devices.seeded(5):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with devices.seeded(5):
        assert torch.equal(torch.rand(3), first)


def test_a_teacher_follows_its_batches_and_goes_where_it_is_told():
    follows, told = Travels(), Travels()
    LiveTeacher(follows).settle({"input": torch.ones(1, device="meta")})
    LiveTeacher(follows).settle({"input": torch.ones(1)})
    LiveTeacher(told, device="meta").settle({"input": torch.ones(1)})
    assert (follows.sent, told.sent) == (["meta"], ["meta"])


def test_the_driver_tells_its_gpus_without_torch(tmp_path, monkeypatch):
    (tmp_path / "0000:00:07.0").mkdir()
    (tmp_path / "0000:00:07.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 56\n")
    assert hardware.driver_gpus(tmp_path) == ("NVIDIA H200",)
    assert hardware.driver_gpus(tmp_path / "absent") == ()
    monkeypatch.setattr("potstill.doctor.driver_gpus", lambda: ("NVIDIA H200",))
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.13.0+cpu")
    finding = _look("torch", None)
    assert "install one for CUDA" in finding.remedy
    assert not finding.required
