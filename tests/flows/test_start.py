"""How far the student starts from the teacher is measured before it is trained, and decides its rate."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from potstill import DistillationPipeline
from potstill.answers.units import FLOOR
from potstill.planning.measured_start import unexplained

QUICK = {
    "teacher": {"epochs": 2, "learning_rate": 3e-3},
    "data": {"augment": 1},
    "distill": {"epochs": 1},
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 2},
}


def test_a_student_of_the_same_shape_starts_as_the_teacher_and_takes_the_smallest_steps(
    small_bert: Path, reviews: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    caplog.set_level(logging.INFO, "potstill")
    DistillationPipeline(teacher_model=small_bert, data=reviews, config={**QUICK, "compression_ratio": 0}, output_dir=out).run()
    assert "before training the student misses 0.0% of what the teacher's answers say" in caplog.text
    metrics = json.loads((out / "report/metrics.json").read_text("utf-8"))
    assert {one["computed_in"] for one in metrics["precision"].values()} == {"fp32"}
    (stage,) = json.loads((out / "student/facts.json").read_text("utf-8"))["stages"]
    assert max(entry["learning_rate"] for entry in stage["history"] if "learning_rate" in entry) <= 1e-5


def test_training_in_bfloat16_is_asked_for_and_its_cost_is_shown(
    small_bert: Path, reviews: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    caplog.set_level(logging.INFO, "potstill")
    config = {**QUICK, "teacher": {"epochs": 1}, "precision": "bf16", "compression_ratio": 0.5}
    metrics = DistillationPipeline(teacher_model=small_bert, data=reviews, config=config, output_dir=out).run()
    assert metrics.precision.keys() == metrics.history.keys()
    for one in metrics.precision.values():
        assert one.computed_in == "bf16"
        assert one.rows == 40
        assert 0 < one.largest_difference < 0.5
        assert 0.8 <= one.same_decisions <= 1
        assert one.step_fp32_ms > 0
        assert one.step_bf16_ms > 0
    assert caplog.text.count("trained in bfloat16: a step takes") == 2
    assert "equal decisions" in (out / "report/index.html").read_text("utf-8")


def test_equal_answers_and_shifted_logits_miss_nothing() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 3
    assert unexplained(logits, logits, True) == pytest.approx(0, abs=1e-6)
    assert unexplained(logits + 5, logits, True) == pytest.approx(0, abs=1e-5)
    assert unexplained(logits, logits, False) == 0


def test_the_mean_answer_misses_everything() -> None:
    teacher = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)) * 3
    mean = teacher.softmax(-1).mean(0, keepdim=True).log().expand_as(teacher)
    assert unexplained(mean, teacher, True) == pytest.approx(1, abs=1e-5)
    assert unexplained(teacher.mean(0, keepdim=True).expand_as(teacher), teacher, False) == pytest.approx(1, abs=1e-5)


def test_classes_of_other_tasks_do_not_count() -> None:
    chance = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(40, 6, generator=chance) for _ in range(2))
    alone = unexplained(student[:, :2], teacher[:, :2], True)
    for logits in (student, teacher):
        logits[:, 2:] = FLOOR
    assert unexplained(student, teacher, True) == pytest.approx(alone, rel=1e-4)
