"""`torchrun` with two ranks: the same losses and the same student as one process with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

RANKED = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "potstill.cli"]
ALONE = [sys.executable, "-m", "potstill.cli"]


def recipe(folder: Path, teacher: Path, data: Path, *, accumulation: int, method: str) -> Path:
    """A short run: the teacher's answers are cached, the student and its baseline train two epochs."""
    given = {
        "teacher": {"model": str(teacher)},
        "data": {"source": str(data), "augment": "none"},
        "student": {"ratio": 0.5},
        "distill": {"method": method, "epochs": 2, "batch_size": 16, "accumulation": accumulation, "cache": "always"},
        "quantize": {"mode": "none"},
        "evaluate": {"batch_sizes": [1], "repeats": 2},
        "baseline": True,
        "precision": "fp32",
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(given), "utf-8")
    return file


def run(command: list[str], file: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """`potstill distill` in processes of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "distill", str(file), "-o", str(output)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def teacher(small_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small BERT with a head, untrained, so that no stage trains it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        small_bert, num_labels=2, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}
    )
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(small_bert).save_pretrained(folder)
    return folder


def losses_of(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """What was logged of losses and evaluations, times left out."""
    kept = ("loss", "eval_loss", "eval_accuracy", "learning_rate", "grad_norm", "step")
    return [{key: value for key, value in entry.items() if key in kept} for entry in history]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "augmented_kd"])
def test_two_ranks_give_the_losses_of_one(teacher: Path, reviews: Path, tmp_path: Path, method: str) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    done = run(ALONE, recipe(tmp_path, teacher, reviews, accumulation=2, method=method), alone)
    assert done.returncode == 0, done.stderr
    done = run(RANKED, recipe(tmp_path, teacher, reviews, accumulation=1, method=method), both)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("index.html") == 1, "one rank tells the result"
    for place in ("work/baseline/facts.json", "student/facts.json"):
        one, two = (json.loads((folder / place).read_text("utf-8")) for folder in (alone, both))
        one, two = (facts["stages"][-1] if "stages" in facts else facts for facts in (one, two))
        assert one["steps"] == two["steps"]
        expected, found = losses_of(one["history"]), losses_of(two["history"])
        assert [sorted(entry) for entry in found] == [sorted(entry) for entry in expected]
        for before, after in zip(expected, found, strict=True):
            assert after == pytest.approx(before, rel=2e-3, abs=1e-5)
    one, two = (load_file(folder / "student/model.safetensors") for folder in (alone, both))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=2e-4), name
    again = run(RANKED, tmp_path / "recipe.yaml", both)
    assert again.returncode == 0, again.stderr
    assert not [path for path in both.rglob("*") if path.name.endswith((".partial", ".lock")) or "potstill-rank" in path.name]


@pytest.mark.slow
def test_a_refused_recipe_ends_all_ranks(teacher: Path, tmp_path: Path) -> None:
    done = run(RANKED, recipe(tmp_path, teacher, tmp_path / "absent.csv", accumulation=1, method="kd"), tmp_path / "out")
    assert done.returncode != 0
    assert "absent.csv" in done.stderr
