"""Methods without a fixed teacher, from a recipe to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from potstill import DistillationPipeline
from potstill.errors import PotstillError
from potstill.recipe import make_recipe


def recipe_of(method: str, teacher: Path, source: Path, output: Path, **online: Any) -> dict[str, Any]:
    return {
        "teacher": {"model": str(teacher), "epochs": 2, "from_scratch": "vit" in teacher.name},
        "data": {"source": str(source), "augment": "none", "max_rows": 120},
        "student": {"ratio": 0.5},
        "distill": {"method": method, "epochs": 2, "online": online},
        "quantize": "none",
        "precision": "fp32",
        "evaluate": {"batch_sizes": [1], "repeats": 16, "similarity_rows": 16},
        "output": str(output),
    }


def run(recipe: dict[str, Any]) -> None:
    DistillationPipeline.from_recipe(make_recipe(recipe)).run()


@pytest.mark.parametrize(
    ("method", "online"),
    [
        ("dml", {"peers": 3}),
        ("mean_teacher", {"decay": 0.9}),
        ("noisy_teacher", {"noise": 0.2}),
        ("self", {"itself": "cs_kd"}),
    ],
)
def test_texts(method: str, online: dict[str, Any], small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    run(recipe_of(method, small_bert, reviews, tmp_path / "out", **online))
    facts = json.loads((tmp_path / "out/student/facts.json").read_text("utf-8"))
    (stage,) = facts["stages"]
    assert stage["steps"] > 0
    assert (tmp_path / "out/work/cache").exists() == (method == "noisy_teacher")  # the others never ask the teacher
    assert (tmp_path / "out/report/index.html").is_file()
    if method == "dml":
        figures = [stage["best"][f"eval_peer_{k}_accuracy"] for k in (1, 2, 3)]
        assert stage["best"]["eval_accuracy"] == figures[int(stage["best"]["eval_best_peer"]) - 1]


def test_turned_images(small_vit: Path, shapes: Path, tmp_path: Path) -> None:
    run(recipe_of("sskd", small_vit, shapes, tmp_path / "out"))
    facts = json.loads((tmp_path / "out/student/facts.json").read_text("utf-8"))
    logged = {name for entry in facts["stages"][0]["history"] for name in entry}
    assert {"loss/sskd", "loss/kl", "loss/ce", "loss/sskd/pretext_accuracy"} <= logged


@pytest.mark.parametrize(
    ("method", "online", "words"),
    [
        ("sskd", {}, "turns images"),
        ("dml", {"peers": 1}, "distill.online.peers"),
        ("dml", {"peer": 3}, "distill.online.peer"),
        ("mean_teacher", {"decay": 1.0}, "distill.online.decay"),
        ("self", {"itself": "csdk"}, "distill.online.itself"),
    ],
)
def test_what_is_refused(
    method: str, online: dict[str, Any], words: str, small_bert: Path, reviews: Path, tmp_path: Path
) -> None:
    with pytest.raises(PotstillError, match=words):
        run(recipe_of(method, small_bert, reviews, tmp_path / "out", **online))
    assert not (tmp_path / "out/teacher").exists()
