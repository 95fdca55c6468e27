"""Command `export`: one more way of serving a finished student, with figures of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from potstill import DistillationPipeline
from potstill.cli import app
from potstill.errors import OutputError, RecipeError
from potstill.flows.finished import FinishedRun
from potstill.flows.further_export import add_export, mode_of
from potstill.flows.prediction import Asked, Prediction
from potstill.report.metrics import Metrics
from potstill.targets import target_named

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 3, "learning_rate": 3e-3},
    "data": {"augment": "none"},
    "student": {"ratio": 0.5},
    "distill": {"epochs": 2, "learning_rate": 3e-3},
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 1, "similarity_rows": 16},
}


@pytest.fixture(scope="module")
def finished(small_bert: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("flow") / "out"
    DistillationPipeline(small_bert, reviews, CONFIG, output).run()
    return output


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_an_export_is_added_with_its_figures(folder: Path, reviews: Path) -> None:
    before = Metrics.read(folder / "report" / "metrics.json")
    result = CliRunner().invoke(app, ["export", str(folder), "--to", "dynamic", "--json"])
    assert result.exit_code == 0, result.output
    added = json.loads(result.stdout)["added"]
    file = folder / added["file"]
    assert file.is_file()
    after = Metrics.read(folder / "report" / "metrics.json")
    name = f"student-{added['name']}"
    assert set(after.models) == {*before.models, name}
    assert after.models[name].bytes == file.stat().st_size == added["bytes"]
    assert after.models["student"].quality == before.models["student"].quality
    assert name in (folder / "report" / "index.html").read_text("utf-8")
    assert (after.stages, after.served) == (before.stages, before.served)
    assert after.quantization is not None
    assert added["name"] in [one.name for one in after.quantization.candidates]
    assert after.files[added["name"]] == added["file"]
    assert after == Metrics.read(folder / "work" / "evaluate" / "metrics.json")
    assert not list((folder / "work").glob(".export-*"))
    assert Prediction(folder, Asked(reviews, runtime=added["name"])).served_as == "onnxruntime-int8"
    with pytest.raises(OutputError, match=r"has the export 'dynamic.*--overwrite.*potstill predict"):
        add_export(folder, added["name"])
    add_export(folder, added["name"], overwrite=True)
    resumed = DistillationPipeline.from_recipe(FinishedRun(folder).recipe).run()
    assert name in resumed.models


def test_two_of_one_precision_stand_side_by_side(folder: Path) -> None:
    add_export(folder, "dynamic-plain")
    metrics = add_export(folder, "static-minmax").metrics
    assert {"student-dynamic-plain", "student-static-minmax"} <= set(metrics.models)
    assert len({file.name for file in (folder / "export").glob("model.*.onnx")}) == 2


def test_what_the_target_cannot_do_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"no export 'int9'.*did you mean 'int8'"):
        add_export(folder, "int9")
    with pytest.raises(OutputError, match=r"has the export 'fp32'.*model\.onnx.*potstill predict"):
        add_export(folder, "onnx")
    for to in ("openvino", "int8", "dynamic"):
        with pytest.raises(RecipeError, match=rf"nvidia_gpu, which does not run {to}.*onnx.*fp16.*write --to onnx"):
            mode_of(to, target_named("nvidia_gpu"))
    assert mode_of("openvino", target_named("cpu")) == "openvino"
    with pytest.raises(OutputError, match="holds no finished run"):
        add_export(folder / "student", "int8")


def test_a_failed_export_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tree() -> dict[str, bytes]:
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    before = tree()
    monkeypatch.setattr("potstill.stages.evaluate.gather", _fails)
    with pytest.raises(RuntimeError, match="stopped"):
        add_export(folder, "dynamic-plain")
    assert tree() == before


def _fails(*arguments: object) -> None:
    raise RuntimeError("stopped")
