"""The real pipeline on a small BERT and a CSV file: what comes out, what is skipped, what is redone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isolated import run_without
from potstill import DistillationPipeline
from potstill.errors import OutputError
from potstill.report.metrics import Metrics
from potstill.report.onnx_snippets import load_with_onnxruntime
from potstill.report.snippets import load_with_transformers

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 6, "learning_rate": 3e-3},
    "data": {"augment": 1},
    "compression_ratio": 0.5,
    "distill": {"epochs": 12, "learning_rate": 3e-3},
    "quantize": "dynamic",
    "baseline": True,
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1, 4], "repeats": 16},
}


def pipeline(teacher: Path, data: Path, output: Path, **changes: Any) -> DistillationPipeline:
    """The pipeline of these tests."""
    return DistillationPipeline(teacher_model=teacher, data=data, config={**CONFIG, **changes}, output_dir=output)


@pytest.fixture(scope="module")
def finished(small_bert: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    """A whole run, done once."""
    output = tmp_path_factory.mktemp("flow") / "out"
    return output, pipeline(small_bert, reviews, output).run()


def test_the_student_learns_and_is_measured(finished: tuple[Path, Metrics]) -> None:
    _, metrics = finished
    assert metrics.models["teacher"].quality["accuracy"] >= 0.9
    assert metrics.retention is not None
    assert metrics.retention >= 0.85
    assert {"teacher", "baseline", "student", "student-int8"} <= set(metrics.models)
    assert metrics.ratio.achieved == pytest.approx(0.5, abs=0.01)
    for name in ("teacher", "student", "student-int8"):
        for by_batch in metrics.models[name].latency_ms.values():
            assert set(by_batch) == {"1", "4"}
            assert all(0 < one.p50 <= one.p95 <= one.p99 for one in by_batch.values())


def test_the_folder_is_laid_out_as_documented(finished: tuple[Path, Metrics]) -> None:
    output, _ = finished
    for file in (
        "recipe.yaml",
        "README.md",
        "student/config.json",
        "student/model.safetensors",
        "export/model.onnx",
        "report/index.html",
    ):
        assert (output / file).is_file(), file
    figures = json.loads((output / "report" / "metrics.json").read_text("utf-8"))
    for key in ("task", "metric", "ratio", "retention", "gap_closed", "agreement", "wdsr", "models"):
        assert key in figures
    assert not list(output.rglob("*.partial"))


def test_counted_parameters_and_bytes_are_those_of_the_files(finished: tuple[Path, Metrics]) -> None:
    from safetensors import safe_open

    output, metrics = finished
    with safe_open(output / "student" / "model.safetensors", "pt") as weights:
        numbers = sum(int(np.prod(weights.get_slice(name).get_shape())) for name in weights.keys())  # noqa: SIM118
    assert metrics.models["student"].parameters == numbers
    assert metrics.models["student-int8"].bytes == (output / "export" / "model.int8.onnx").stat().st_size


def test_plain_transformers_and_onnxruntime_serve_the_student(finished: tuple[Path, Metrics]) -> None:
    output, _ = finished
    code = f"""
import sys
sys.modules["potstill"] = None
from transformers import pipeline
import numpy as np, onnxruntime
from transformers import AutoTokenizer
classify = pipeline("text-classification", {str(output / "student")!r})
answers = classify(["this film was lovely and warm", "this book was dull and bitter", "zyzzyva q"])
assert [a["label"] for a in answers[:2]] == ["good", "bad"], answers
tokens = AutoTokenizer.from_pretrained({str(output / "student")!r})(["this film was lovely and warm"], return_tensors="np")
session = onnxruntime.InferenceSession({str(output / "export" / "model.onnx")!r})
feed = {{i.name: tokens[i.name].astype("int64") for i in session.get_inputs()}}
assert int(np.argmax(session.run(None, feed)[0])) == 1
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_same_recipe_again_does_nothing(finished: tuple[Path, Metrics], small_bert: Path, reviews: Path) -> None:
    output, metrics = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != "recipe.yaml"}
    again = pipeline(small_bert, reviews, output).run()
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != "recipe.yaml"}
    assert before == after
    assert again == metrics


def test_another_recipe_is_refused_and_redoes_only_what_depends_on_it(
    finished: tuple[Path, Metrics], small_bert: Path, reviews: Path
) -> None:
    output, _ = finished
    changed = pipeline(small_bert, reviews, output, evaluate={"batch_sizes": [1], "repeats": 16})
    with pytest.raises(OutputError, match=r"evaluate\.batch_sizes was \[1, 4\], is \[1\].*--overwrite"):
        changed.run()
    weights = (output / "student" / "model.safetensors").stat().st_mtime_ns
    metrics = changed.run(overwrite=True)
    assert (output / "student" / "model.safetensors").stat().st_mtime_ns == weights
    assert set(metrics.models["student"].latency_ms["pytorch-fp32"]) == {"1"}


def test_a_folder_of_something_else_is_left_alone(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", "utf-8")
    with pytest.raises(OutputError, match="no run of Potstill"):
        pipeline(small_bert, reviews, tmp_path).run()
    assert (tmp_path / "thesis.txt").read_text("utf-8") == "years of work"
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith((".", "run"))] == ["thesis.txt"]


def test_the_code_of_the_page_runs_without_potstill(finished: tuple[Path, Metrics]) -> None:
    output, metrics = finished
    assert metrics.loading is not None
    assert metrics.loading.inputs == ["text"]
    with_transformers = run_without(["potstill"], load_with_transformers(metrics), output)
    with_onnx = run_without(["potstill", "torch", "transformers"], load_with_onnxruntime(metrics) or "", output)
    for said in (with_transformers, with_onnx):
        assert len(said.splitlines()) == 2
        assert "good" in said or "bad" in said
