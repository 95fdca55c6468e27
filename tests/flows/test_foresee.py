"""What the models cannot give is refused before the teacher is trained, and told with the nearest that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill import DistillationPipeline
from potstill.errors import PotstillError

ACCEPTED = {"teacher": {"epochs": 1}, "data": {"augment": "none"}, "compression_ratio": 0.5}


class Stopped(Exception):
    """The stage of the teacher was reached."""


class UpToTheTeacher:
    """An observer that ends the run where the teacher would be trained."""

    def stage_started(self, name: str, title: str) -> None:
        if name != "data":
            raise Stopped(name)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: None


def start(model: Path, rows: Path, output: Path, **config: Any) -> None:
    pipeline = DistillationPipeline(teacher_model=model, data=rows, config={**ACCEPTED, **config}, output_dir=output)
    pipeline.run(UpToTheTeacher())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"distill": {"method": "dkd"}}, r"method 'dkd' needs 3 classes or more, the \w+ has 2\..*distill.method: kd"),
        ({"losses": ["kl", "dkd"]}, r"loss 'dkd' says nothing about 2 classes\..*take the loss kl"),
        ({"losses": ["kl", "review_kd"]}, r"review_kd cannot compare .*both sides as maps.*take the loss"),
        (
            {"distill": {"method": "minilm"}, "student": {"architecture": "bilstm"}},
            r"'minilm' needs attention.*method: rkd",
        ),
        (
            {"losses": ["kl", "tinybert_attention"], "student": {"architecture": "bilstm"}},
            r"'tinybert_attention' needs 'attention:1' of the student, which has no attention\..*take the loss sp",
        ),
        ({"distill": {"method": "tinybert", "layers": [[1, 7]]}}, r"layers names block 7 of the teacher, which has 3"),
        ({"distill": {"method": "rkd", "layers": "dynamic"}}, r"method 'rkd' has no term that can choose its blocks"),
        ({"distill": {"method": "tinybert", "layers": "everywhere"}}, r"layers is 'everywhere'\. Accepted: auto, uniform"),
    ],
    ids=str,
)
def test_text_models_that_lack_something(small_bert: Path, reviews: Path, tmp_path: Path, config: Any, message: str) -> None:
    if "student" in config:
        config = {**config, "student": {"ratio": 0.5, **config["student"]}}
    with pytest.raises(PotstillError, match=message):
        start(small_bert, reviews, tmp_path / "out", **config)
    assert not (tmp_path / "out/teacher").exists()


@pytest.mark.parametrize(
    "config",
    [
        {"distill": {"method": "tinybert"}},
        {"distill": {"method": "tinybert", "layers": "dynamic"}},
        {"distill": {"method": "tinybert", "layers": [[1, 3]]}},
        {"losses": ["kl", "hidden_mse", "rkd_distance", {"name": "routed", "student_layers": [1], "teacher_layers": [1, 2, 3]}]},
        {"student": {"ratio": 0.5, "architecture": "textcnn"}, "losses": ["kl", "rkd_distance"]},
        {"distill": {"rows": {"focus": "student_loss"}, "balance": "uncertainty", "temperature": {"per_sample": [1, 4]}}},
    ],
    ids=str,
)
def test_what_works_reaches_the_teacher(small_bert: Path, reviews: Path, tmp_path: Path, config: Any) -> None:
    with pytest.raises(Stopped):
        start(small_bert, reviews, tmp_path / "out", **config)


def test_image_models_that_lack_something(small_vit: Path, shapes: Path, tmp_path: Path) -> None:
    config = {"teacher": {"from_scratch": True}, "losses": ["kl", "review_kd"]}
    with pytest.raises(PotstillError, match=r"review_kd cannot compare .*both sides as maps"):
        start(small_vit, shapes, tmp_path / "out", **config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": {"per_sample": [4, 1]}}, r"distill.temperature is .*0 < low ≤ high"),
        ({"method": "dkd", "temperature": {"per_sample": [1, 4]}}, r"loss 'dkd' has a temperature per sample"),
        ({"alpha": {"per_sample": [0, 1]}}, r"distill.alpha has the schedule 'per_sample'"),
        ({"distill": {"rows": {"focus": "hard"}}}, r"rows.focus"),
        ({"distill": {"balance": "gradnorm"}}, r"distill.balance"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_at_once(
    small_bert: Path, reviews: Path, tmp_path: Path, config: Any, message: str
) -> None:
    with pytest.raises(PotstillError, match=message):
        start(small_bert, reviews, tmp_path / "out", **config)
