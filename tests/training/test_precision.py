"""What training and teachers compute in: float32 unless bfloat16 is asked for, and then its cost is known."""

from __future__ import annotations

import json

import pytest
import torch
from small_models import Rows, collate, encoder, opinionated
from stage_run import run

from potstill import answers
from potstill.knowledge.live import LiveTeacher
from potstill.report.metrics import TrainingPrecision
from potstill.training import precision
from potstill.training.precision import Computing, computing_of, rounding_cost, rounding_note


@pytest.fixture(autouse=True)
def _cpu_on_which_bf16_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    for place in ("potstill.ground.hardware", "potstill.knowledge.live", "potstill.training.precision"):
        monkeypatch.setattr(f"{place}.bf16_pays", lambda device="cpu": True)
    monkeypatch.setattr(precision, "step_seconds", lambda *_, **__: (1.0, 0.1))


def test_teachers_answer_in_float32_even_inside_autocast() -> None:
    model, batch = opinionated().eval(), collate(Rows(16).rows)
    with torch.no_grad():
        expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LiveTeacher(model).signal(batch).logits, expected)
    assert not torch.equal(LiveTeacher(model, dtype="bfloat16").signal(batch).logits, expected)


def test_auto_is_float32_on_a_cpu_and_bf16_is_what_was_asked_for(tmp_path, monkeypatch) -> None:
    batch = collate(Rows(4).rows)
    assert computing_of("auto", encoder(), batch, tmp_path) == Computing()
    assert computing_of("fp32", encoder(), batch, tmp_path) == Computing()
    assert not (tmp_path / "precision.json").exists()
    found = computing_of("bf16", encoder(), batch, tmp_path)
    assert found == Computing(bf16=True, step_fp32_ms=1000.0, step_bf16_ms=100.0)
    monkeypatch.setattr(precision, "step_seconds", None)  # a resumed run reads what was measured
    assert computing_of("bf16", encoder(), batch, tmp_path) == found


def test_auto_trains_in_float32_on_a_cpu(tmp_path) -> None:
    auto, _ = run(tmp_path / "auto", precision="auto", epochs=1)
    full, _ = run(tmp_path / "fp32", precision="fp32", epochs=1)
    assert auto.precision == full.precision == {"computed_in": "fp32", "step_fp32_ms": None, "step_bf16_ms": None}
    assert rounding_note(auto.precision) is None
    ours, theirs = auto.model.state_dict(), full.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_stage_in_bfloat16_records_what_it_gains_and_costs(tmp_path) -> None:
    outcome, _ = run(tmp_path, precision="bf16", epochs=1)
    found = TrainingPrecision(**outcome.precision)
    assert (found.computed_in, found.step_fp32_ms, found.step_bf16_ms, found.rows) == ("bf16", 1000.0, 100.0, 12)
    assert 0 < found.mean_difference <= found.largest_difference < 0.5
    assert 0 <= found.mean_kl_nats < 0.1
    assert 0.5 <= found.same_decisions <= 1
    assert "a step takes 100.0 ms, in float32 1000.0 ms; answers to 12 rows differ by at most" in rounding_note(outcome.precision)
    again, steps = run(tmp_path, precision="bf16", epochs=1)
    assert steps == []
    assert again.precision == json.loads((tmp_path / "trained.json").read_text("utf-8"))["precision"] == outcome.precision


def test_numbers_have_no_decisions_and_training_mode_is_kept() -> None:
    model = encoder(dropout=0.5).train()
    cost = rounding_cost(model, [collate(Rows(6).rows)], answers.build("numbers"))
    assert cost.keys() == {"rows", "largest_difference", "mean_difference"}
    assert model.training


def test_float32_products_stay_float32() -> None:
    import potstill.flows.pipeline  # noqa: F401  whatever it sets is set

    left, right = torch.randn(512, 768), torch.randn(768, 768)
    exact = left.double() @ right.double()
    assert float((left @ right - exact).abs().max() / exact.abs().max()) < 1e-5
    assert torch.get_float32_matmul_precision() == "highest"
