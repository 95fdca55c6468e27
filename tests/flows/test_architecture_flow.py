"""A student of another kind of network goes through the whole pipeline and is loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest

import potstill
from potstill import DistillationPipeline


@pytest.mark.parametrize(
    "name", ["textcnn", pytest.param("bilstm", marks=pytest.mark.slow), pytest.param("static", marks=pytest.mark.slow)]
)
def test_student_arch_runs_whole(name: str, small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    config = {
        "teacher": {"epochs": 6, "learning_rate": 3e-3},
        "data": {"augment": 1},
        "student_arch": name,
        "compression_ratio": 0.5,
        "distill": {"epochs": 12, "learning_rate": 3e-3},
        "quantize": "none",
        "precision": "fp32",
        "evaluate": {"batch_sizes": [1], "repeats": 16},
    }
    metrics = DistillationPipeline(teacher_model=small_bert, data=reviews, config=config, output_dir=tmp_path / "out").run()
    assert metrics.retention is not None
    assert metrics.retention >= 0.85
    model, tokenizer = potstill.load(tmp_path / "out")
    assert model.config.model_type == f"potstill-{name}"
    answer = model(**tokenizer(["this film was lovely and warm"], return_tensors="pt")).logits.argmax()
    assert model.config.id2label[int(answer)] == "good"
