"""Whole runs on a GPU: what trains and answers there, what is timed and exported on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from potstill import DistillationPipeline
from potstill.contracts.answers import Predictions
from potstill.evaluate import measure as measure_stages
from potstill.exports.runtimes import TorchRunner
from potstill.flows.reevaluate import reevaluate
from potstill.report.metrics import Metrics

pytestmark = pytest.mark.gpu

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 5, "learning_rate": 3e-3},
    "data": {"augment": 1},
    "compression_ratio": 0.5,
    "distill": {"epochs": 6, "learning_rate": 3e-3, "cache": "always"},
    "quantize": "dynamic",
    "baseline": True,
    "evaluate": {"batch_sizes": [1], "repeats": 16, "similarity_rows": 32},
}


def whole(model: Path, rows: Path, output: Path, **changes: Any) -> Metrics:
    """A run, and what must hold after any."""
    torch.cuda.reset_peak_memory_stats()
    metrics = DistillationPipeline(model, rows, config={**CONFIG, **changes}, output_dir=output).run()
    assert torch.cuda.max_memory_allocated() > 0
    assert torch.cuda.memory_allocated() < 256 << 20  # what a stage held is given back
    for file in ("student/model.safetensors", "export/model.onnx", "report/index.html", "report/metrics.json", "README.md"):
        assert (output / file).is_file(), file
    assert not list(output.rglob("*.partial"))
    facts = json.loads((output / "report/metrics.json").read_text("utf-8"))
    assert facts["machine"]["accelerator"] == torch.cuda.get_device_name()
    return metrics


def test_texts(small_bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: dict[str, set[str]] = {"timed": set(), "answered": set()}
    best, predict = measure_stages._best_threads, measure_stages.predict

    def timed(bench: Any, party: Any, make: Any) -> Any:
        runner = best(bench, party, make)
        if isinstance(runner, TorchRunner):
            places["timed"].add(next(runner.model.parameters()).device.type)
        return runner

    def answered(runner: Any, *args: Any, **options: Any) -> Predictions:
        if isinstance(runner, TorchRunner):
            places["answered"].add(next(runner.model.parameters()).device.type)
        return predict(runner, *args, **options)

    monkeypatch.setattr(measure_stages, "_best_threads", timed)
    monkeypatch.setattr(measure_stages, "predict", answered)
    metrics = whole(small_bert, reviews, tmp_path / "out")
    assert places == {"timed": {"cpu"}, "answered": {"cuda"}}
    assert metrics.models["teacher"].quality["accuracy"] >= 0.9
    assert metrics.models["student"].quality["accuracy"] >= 0.8
    assert {"teacher", "baseline", "student", "student-int8"} <= set(metrics.models)
    again = reevaluate(tmp_path / "out")
    assert again["models"]["student"]["quality"]["accuracy"] == pytest.approx(
        metrics.models["student"].quality["accuracy"], abs=0.02
    )


def test_images(small_vit: Path, shapes: Path, tmp_path: Path) -> None:
    teacher = {"epochs": 8, "learning_rate": 3e-3, "from_scratch": True}
    metrics = whole(small_vit, shapes, tmp_path / "out", teacher=teacher, data={"augment": "none"})
    assert metrics.models["student"].quality["accuracy"] is not None


LIVE: dict[str, dict[str, Any]] = {
    "tinybert": {"method": "tinybert", "epochs": 2, "cache": "never"},
    "dml": {"method": "dml", "epochs": 2},
    "mean_teacher": {"method": "mean_teacher", "epochs": 2},
    "takd": {"method": "takd", "epochs": 2},
    "own losses": {
        "epochs": 2,
        "losses": ["kl", {"name": "hidden_mse", "weight": 0.5}, {"name": "crd", "negatives": 64}, {"name": "ce", "weight": 0.2}],
        "cache": "never",
        "rows": {"focus": "student_loss"},
        "balance": "gradient_norm",
    },
}


@pytest.mark.parametrize("name", LIVE)
def test_ways_of_learning(name: str, small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": {"augment": "none", "max_rows": 120}, "quantize": "none", "baseline": False}
    ratio = {"compression_ratio": 0.8} if name == "takd" else {}
    whole(small_bert, reviews, tmp_path / "out", distill=LIVE[name], **options, **ratio)


@pytest.mark.parametrize("student", [{"architecture": "bilstm", "ratio": 0.5}, {"architecture": "static", "ratio": 0.5}])
def test_other_networks(student: dict[str, Any], small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"student": student, "compression_ratio": None, "quantize": "none", "baseline": False}
    config = {key: value for key, value in {**CONFIG, **changes, "distill": {"epochs": 2}}.items() if value is not None}
    metrics = DistillationPipeline(small_bert, reviews, config=config, output_dir=tmp_path / "out").run()
    assert metrics.models["student"].parameters is not None
