"""A run for a target that is not on this machine: exported, converted, checked on the CPU, and not timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill import DistillationPipeline
from potstill.flows.reevaluate import reevaluate
from potstill.report.table import summary_table
from potstill.targets.nvidia_gpu import NvidiaGpu

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 2, "learning_rate": 1e-3},
    "data": {"augment": "none"},
    "student": {"ratio": 0.5},
    "distill": {"epochs": 1, "learning_rate": 3e-3},
    "precision": "fp32",
    "target": "nvidia_gpu",
    "evaluate": {"batch_sizes": [1], "repeats": 1},
}


@pytest.mark.slow
def test_speeds_of_a_target_that_is_not_here_are_not_measured(
    small_bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NvidiaGpu, "absent", lambda self: "there is none; evaluate where one is")
    metrics = DistillationPipeline(small_bert, reviews, CONFIG, tmp_path / "out").run()
    assert metrics.target is not None
    assert (metrics.target.name, metrics.target.verdict, metrics.target.hardware) == ("nvidia_gpu", "converted", None)
    assert {one.name: one.p50_ms for one in metrics.quantization.candidates} == {"fp32": None, "fp16": None}
    assert metrics.served == "student-fp16"
    assert metrics.files["onnx-fp16"] == "export/model.fp16.onnx"
    assert metrics.models["student-fp16"].retention is not None
    assert not any(model.latency_ms for model in metrics.models.values())
    assert metrics.energy is not None
    assert "there is none" in (metrics.energy.reason or "")
    page = (tmp_path / "out" / "report" / "index.html").read_text("utf-8")
    assert "Speeds on NVIDIA GPU were not measured here" in page
    assert "speed on" not in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert summary_table(metrics).row_count
    again = reevaluate(tmp_path / "out")
    assert set(again["models"]) >= {"teacher", "student", "student-onnxruntime", "student-fp16"}
