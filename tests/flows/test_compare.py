"""Command `compare`: paired differences on the same rows, and refusals that name what differs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from potstill import DistillationPipeline
from potstill.cli import app
from potstill.errors import DataError, RecipeError
from potstill.flows.comparison import compare
from potstill.report.comparison import comparison_page
from potstill.report.metrics import Metrics

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 4, "learning_rate": 3e-3},
    "data": {"augment": "none"},
    "student": {"ratio": 0.5},
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 1, "similarity_rows": 16},
}


def run(teacher: Path, source: Any, output: Path, /, **changes: Any) -> Metrics:
    return DistillationPipeline(teacher, source, {**CONFIG, **changes}, output).run()


@pytest.fixture(scope="module")
def runs(small_bert: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A student that has hardly learned, and one that has."""
    folder = tmp_path_factory.mktemp("runs")
    run(small_bert, reviews, folder / "short", distill={"epochs": 0.1, "learning_rate": 1e-5})
    run(small_bert, reviews, folder / "long", distill={"epochs": 10, "learning_rate": 3e-3})
    return folder / "short", folder / "long"


def test_differences_are_those_of_the_reports_with_a_paired_interval(runs: tuple[Path, Path]) -> None:
    found = compare(runs)
    values = [Metrics.read(folder / "report" / "metrics.json").models["student"].quality["accuracy"] for folder in runs]
    assert [one.value for one in found.runs] == pytest.approx(values)
    (difference,) = found.differences
    assert difference.value == pytest.approx(values[1] - values[0])
    assert difference.low is not None
    assert difference.high is not None
    assert difference.low <= difference.value <= difference.high
    assert difference.verdict == ("better" if difference.low > 0 else "open")
    assert found.rows == 40
    assert found.settings["distill.epochs"] == ("0.1", "10.0")
    assert "output" not in found.settings
    assert found.runs[0].bytes == (runs[0] / "student" / "model.safetensors").stat().st_size or found.runs[0].bytes


def test_a_run_and_its_copy_differ_by_nothing(runs: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(runs[1], tmp_path / "copy"))
    (difference,) = compare([runs[1], copy]).differences
    assert (difference.value, difference.low, difference.high, difference.verdict) == (0, 0, 0, "open")


def test_the_command_prints_a_table_a_page_or_json(runs: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "-o", str(page)])
    assert result.exit_code == 0, result.output
    assert "distill.epochs" in result.stdout
    text = page.read_text("utf-8")
    assert text.count('class="en"') == text.count('class="zh"') > 10
    for folder in runs:
        assert str(folder) in text
    assert "width=device-width" in text
    assert 'class="scroll"' in text
    assert "http" not in text.replace("http-equiv", "")
    again = CliRunner().invoke(app, ["compare", *map(str, runs), "-o", str(page)])
    assert "is there already" in str(again.exception)
    found = json.loads(CliRunner().invoke(app, ["compare", *map(str, runs), "--json"]).stdout)
    assert {"task", "metric", "rows", "paired", "runs", "differences", "settings", "notes"} == set(found)
    assert found["differences"][0]["verdict"] in ("better", "worse", "open")


def test_the_same_rows_in_another_order_are_paired(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    with reviews.open(encoding="utf-8") as stream:
        rows = [dict(zip(("text", "label"), row)) for row in list(csv.reader(stream))[1:161]]
    unique = list({row["text"]: row for row in rows}.values())
    sources = []
    for name, test in (("a", unique[:40]), ("b", unique[:40][::-1])):
        (tmp_path / name).mkdir()
        for split, part in (("train", unique[40:]), ("test", test)):
            (tmp_path / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)), "utf-8")
        sources.append(tmp_path / name)
    folders = [tmp_path / "out-a", tmp_path / "out-b"]
    for source, folder in zip(sources, folders, strict=True):
        run(small_bert, source, folder, distill={"epochs": 1, "learning_rate": 1e-3})
    found = compare(folders)
    assert found.rows == 40
    assert abs(found.differences[0].value) < 0.2


def test_runs_that_cannot_be_compared_are_refused(
    runs: tuple[Path, Path], small_bert: Path, reviews: Path, topics: Path, tmp_path: Path
) -> None:
    quick = {"distill": {"epochs": 0.1}, "teacher": {"epochs": 1, "learning_rate": 1e-3}}
    run(small_bert, reviews, tmp_path / "seed", seed=1, **quick)
    with pytest.raises(DataError, match=r"test rows differ: .* has 40, .* 40, and \d+ are in both.*--unpaired"):
        compare([runs[0], tmp_path / "seed"])
    unpaired = compare([runs[0], tmp_path / "seed"], paired=False)
    assert unpaired.rows is None
    assert unpaired.differences[0].low is not None
    assert "not paired" in comparison_page(unpaired)
    run(
        small_bert,
        topics,
        tmp_path / "topics",
        **quick,
        data={"columns": {"text": "sentence", "label": "thing"}, "augment": "none"},
    )
    with pytest.raises(DataError, match=r"labels differ: .* has bad, good; .* has book, film, song"):
        compare([runs[0], tmp_path / "topics"])
    with pytest.raises(RecipeError, match=r"two or more output folders.*potstill compare out/a out/b"):
        compare([runs[0]])
    with pytest.raises(RecipeError, match=r"is given twice"):
        compare([runs[0], runs[0]])


def test_other_kinds_are_compared_too(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    with reviews.open(encoding="utf-8") as stream:
        given = [(text, label) for text, label in list(csv.reader(stream))[1:121]]
    tagged = [
        {"tokens": text.split(), "tags": ["B-X" if word in ("bright", "dull", "film") else "O" for word in text.split()]}
        for text, _ in given
    ]
    asked = []
    for text, _ in given:
        answer = text.split()[-1]
        at = text.rindex(answer)
        asked.append({"question": "which", "context": text, "answers": {"text": [answer], "answer_start": [at]}})
    scored = [{"text": text, "score": 1.5 * len(text)} for text, _ in given]
    for name, task, rows in (
        ("tags", "token-classification", tagged),
        ("spans", "question-answering", asked),
        ("numbers", "regression", scored),
        ("vectors", "sentence-embeddings", [{"text": text} for text, _ in given]),
    ):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
        folders = [tmp_path / f"{name}-{epochs}" for epochs in (1, 3)]
        for folder, epochs in zip(folders, (1, 3), strict=True):
            run(small_bert, file, folder, task=task, distill={"epochs": epochs, "learning_rate": 3e-3})
        found = compare(folders)
        figures = [Metrics.read(folder / "report" / "metrics.json") for folder in folders]
        assert [one.value for one in found.runs] == pytest.approx(
            [each.models["student"].quality[each.metric] for each in figures], abs=1e-5
        )
        assert found.differences[0].low <= found.differences[0].high
        assert np.isfinite(found.differences[0].low)
