"""Mean states of the teacher's blocks: kept beside its answers where the method reads them, and learned by the student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from potstill import DistillationPipeline
from potstill.flows.preview import preview
from potstill.knowledge.cache import CachedTeacher
from potstill.planning import block_means as states
from potstill.planning.block_means import dtype_of, spread_blocks
from potstill.recipe import make_recipe

QUICK: dict[str, Any] = {
    "teacher": {"epochs": 1, "learning_rate": 3e-3},
    "data": {"augment": 1},
    "distill": {"epochs": 1},
    "compression_ratio": 0,
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 2},
}


def distilled(teacher: Path, data: Path, output: Path, **changes: Any) -> tuple[CachedTeacher, dict[str, Any]]:
    """The cache of a run, and how its last stage of training was configured and went."""
    DistillationPipeline(teacher_model=teacher, data=data, config={**QUICK, **changes}, output_dir=output).run()
    stages = json.loads((output / "student/facts.json").read_text("utf-8"))["stages"]
    return CachedTeacher.open(output / "work/cache/logits"), stages[-1]


def losses_of(stage: dict[str, Any]) -> set[str]:
    return {key for entry in stage["history"] for key in entry if key.startswith("loss/")}


def test_the_default_of_texts_keeps_the_states_of_every_block_and_learns_them(
    small_bert: Path, reviews: Path, tmp_path: Path
) -> None:
    cache, stage = distilled(small_bert, reviews, tmp_path / "out")
    assert cache.manifest.needs == ("logits", "mean:1", "mean:2", "mean:3")
    assert (cache.manifest.dtype, cache.manifest.tap_dtype) == ("float32", "float16")
    assert "loss/hidden_mse" in losses_of(stage)
    of_states = [entry["loss/hidden_mse"] for entry in stage["history"] if "loss/hidden_mse" in entry]
    assert of_states[0] < 1e-3  # the student of ratio 0 is the teacher, whose states were rounded to half precision


@pytest.mark.parametrize("changes", [{"distill": {"epochs": 1, "method": "kd"}}, {"distill": {"epochs": 1, "losses": ["kl"]}}])
def test_other_methods_keep_the_answers_alone(small_bert: Path, reviews: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    cache, _ = distilled(small_bert, reviews, tmp_path / "out", **changes)
    assert cache.manifest.needs == ("logits",)


def test_without_room_on_the_disk_the_answers_alone_are_learned(
    small_bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "free_bytes", lambda folder: 1 << 10)
    cache, stage = distilled(small_bert, reviews, tmp_path / "out")
    assert cache.manifest.needs == ("logits",)
    assert "loss/hidden_mse" not in losses_of(stage)


def test_the_plan_counts_the_states(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    recipe = {**QUICK, "teacher": {"model": str(small_bert)}, "data": {"source": str(reviews), "augment": 1}}
    rows, logits, index = preview(make_recipe(recipe)).rows, 2 * 4, 2 * 8
    assert preview(make_recipe(recipe)).cache_bytes == rows * (logits + index + 3 * 48 * 2)
    plain = {**recipe, "distill": {"method": "kd"}}
    assert preview(make_recipe(plain)).cache_bytes == rows * (logits + index)


def test_blocks_are_evenly_spread_and_end_with_the_last() -> None:
    assert spread_blocks(24, 6) == (4, 8, 12, 16, 20, 24)
    assert spread_blocks(7, 6) == (1, 3, 5, 7)
    assert spread_blocks(2, 6) == (1, 2)
    assert spread_blocks(12, 1) == (12,)
    assert spread_blocks(12, 0) == ()


def test_large_states_are_kept_whole() -> None:
    assert dtype_of([torch.ones(2, 3)]) == "float16"
    assert dtype_of([torch.ones(2, 3), torch.full((2, 3), -7e3)]) == "float32"
