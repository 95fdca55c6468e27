"""Several labels, numbers and embeddings through the whole pipeline, on a small BERT."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill import DistillationPipeline, load
from potstill.errors import NeedsError, RecipeError

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 6, "learning_rate": 1e-3},
    "data": {"augment": "none"},
    "student": {"ratio": 0.5},
    "distill": {"epochs": 4, "learning_rate": 3e-3},
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 1},
}


@pytest.fixture(scope="module")
def rows(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with the label sets and the number that follow from them."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with file.open("w", encoding="utf-8") as stream, reviews.open(encoding="utf-8") as given:
        for text, label in list(csv.reader(given))[1:161]:
            labels = [label, *(["film"] if "film" in text.split() else [])]
            score = 500.0 + (100.0 if label == "good" else -100.0) + len(text)
            stream.write(json.dumps({"text": text, "labels": labels, "score": score}) + "\n")
    return file


def run(teacher: Path, data: Path, output: Path, **changes: Any) -> Any:
    return DistillationPipeline(teacher, data, {**CONFIG, **changes}, output).run()


@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), [("multi-label", "micro_f1"), ("regression", "concordance")])
def test_graded_answers_are_taught_and_measured(task: str, metric: str, small_bert: Path, rows: Path, tmp_path: Path) -> None:
    label = {"multi-label": "labels", "regression": "score"}[task]
    metrics = run(small_bert, rows, tmp_path / "out", baseline=True, data={"augment": "none", "columns": {"label": label}})
    assert (metrics.task, metrics.metric) == (task, metric)
    assert metrics.models["teacher"].quality[metric] > 0.5
    assert metrics.retention is not None
    model, tokenizer = load(tmp_path / "out")
    assert model.config.problem_type == {"multi-label": "multi_label_classification", "regression": "regression"}[task]
    answer = model(**tokenizer("a lovely film", return_tensors="pt")).logits
    if task == "regression":
        assert 300 < float(answer) < 800
    assert (tmp_path / "out" / "report" / "index.html").read_text("utf-8")


@pytest.mark.slow
def test_embeddings_stay_in_the_teachers_space(small_bert: Path, rows: Path, tmp_path: Path) -> None:
    import onnxruntime

    metrics = run(small_bert, rows, tmp_path / "out", task="sentence-embeddings")
    assert metrics.metric == "teacher_cosine"
    assert metrics.models["student"].quality["teacher_cosine"] > 0.8
    model, tokenizer = load(tmp_path / "out")
    tokens = tokenizer(["a lovely film", "a dull book"], return_tensors="np")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "export" / "model.onnx"))
    served = session.run(None, {each.name: tokens[each.name] for each in session.get_inputs()})[0]
    with torch.no_grad():
        expected = model(**{name: torch.as_tensor(value) for name, value in tokens.items()}).logits.numpy()
    np.testing.assert_allclose(served, expected, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(served, axis=1), 1.0, atol=1e-5)
    assert (tmp_path / "out" / "student" / "modules.json").is_file()


@pytest.mark.parametrize(
    ("task", "changes", "error", "message"),
    [
        ("sentence-embeddings", {"baseline": True}, RecipeError, "baseline: true asks for training on labels"),
        ("sentence-embeddings", {"student": {"architecture": "static"}}, RecipeError, "no sentence embedding"),
        ("regression", {"distill": {"method": "dkd"}}, NeedsError, "the answers of this task are numbers"),
        ("multi-label", {"distill": {"losses": ["kl"]}}, NeedsError, "loss 'kl' compares probabilities"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(
    task: str, changes: dict[str, Any], error: type[Exception], message: str, small_bert: Path, tmp_path: Path
) -> None:
    (tmp_path / "no-rows.jsonl").write_text("no JSON", "utf-8")
    with pytest.raises(error, match=message):
        run(small_bert, tmp_path / "no-rows.jsonl", tmp_path / "out", task=task, **changes)
