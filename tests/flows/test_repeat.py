"""The recipe that a run leaves repeats it from any folder, finds the run's own results, and says what cannot be repeated."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from flows.conftest import sentences
from potstill import DistillationPipeline
from potstill.errors import PotstillError
from potstill.flows.folder import recipe_of_run
from potstill.flows.observer import LoggingObserver
from potstill.planning.first_check import check_names
from potstill.recipe import make_recipe, read_file

TINY = ["--quantize", "none", "--set", "teacher.epochs=1", "--set", "data.augment=1", "--set", "data.max_rows=60"]
QUICK = ["--set", "evaluate.repeats=2", "--set", "evaluate.batch_sizes=[1]"]


def distill(folder: Path, *arguments: str) -> str:
    """The real command, run in a folder; returns what it shows of its progress."""
    command = [sys.executable, "-m", "potstill", "distill", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def student_in(folder: Path) -> str:
    """Hash of the student's weights."""
    return hashlib.sha256((folder / "student" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def home(small_bert: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a finished run whose recipe left all that it can to Potstill, given by relative paths."""
    folder = tmp_path_factory.mktemp("repeat") / "home"
    folder.mkdir()
    shutil.copytree(small_bert, folder / "bert")
    shutil.copy(reviews, folder / "reviews.csv")
    distill(folder, "--teacher", "./bert", "--data", "reviews.csv", "-o", "out", *TINY, *QUICK)
    return folder


def test_paths_are_whole_and_open_values_resolved(home: Path) -> None:
    recipe = yaml.safe_load((home / "out/recipe.yaml").read_text("utf-8"))
    assert recipe["teacher"]["model"] == str(home / "bert")
    assert recipe["data"]["source"] == str(home / "reviews.csv")
    assert recipe["output"] == str(home / "out")
    assert recipe["task"] == "text-classification"
    assert recipe["student"]["ratio"] == 0.9
    assert recipe["distill"]["method"] == "augmented_kd"
    assert recipe["distill"]["epochs"] > 0
    assert recipe["distill"]["learning_rate"] > 0
    assert recipe["precision"] == "fp32"


def test_what_was_asked_can_be_recovered(home: Path) -> None:
    text = (home / "out/recipe.yaml").read_text("utf-8")
    assert "method: augmented_kd  # asked: auto" in text
    asked = recipe_of_run(home / "out")
    assert (asked.distill.method, asked.distill.epochs, asked.task, asked.student.ratio) == ("auto", None, "auto", None)


def test_the_recipe_repeats_the_run_from_another_folder(home: Path, tmp_path: Path) -> None:
    distill(tmp_path, str(home / "out/recipe.yaml"), "-o", "again")
    assert student_in(tmp_path / "again") == student_in(home / "out")
    first, second = (yaml.safe_load((folder / "recipe.yaml").read_text("utf-8")) for folder in (home / "out", tmp_path / "again"))
    assert second.pop("output") == str(tmp_path / "again")
    del first["output"]
    assert first == second


@pytest.mark.parametrize("where", [".", ".."])
def test_the_recipe_finds_the_results_of_its_own_run(home: Path, where: str) -> None:
    shown = distill(home / where, str(home / "out/recipe.yaml"))
    assert shown.count("already done") >= 6
    assert " s  " not in shown
    shown = distill(home, "--teacher", "./bert", "--data", "reviews.csv", "-o", "out", *TINY, *QUICK)
    assert " s  " not in shown


def test_what_was_in_memory_is_said_and_refused_later(small_bert: Path, tmp_path: Path) -> None:
    texts, labels = zip(*sentences(60, seed=1), strict=True)
    rows = Dataset.from_dict({"text": list(texts), "label": list(labels)})
    config = {
        "teacher": {"epochs": 1},
        "distill": {"epochs": 1},
        "quantize": "none",
        "augment": "none",
        "evaluate": {"repeats": 2, "batch_sizes": [1]},
    }
    config["data"] = {"augment": config.pop("augment")}
    metrics = DistillationPipeline(teacher_model=small_bert, data=rows, config=config, output_dir=tmp_path / "out").run()
    assert metrics.unrepeatable == [
        "data.source was in memory; name a file or folder in its place, or run the Python program again"
    ]
    assert "# Cannot be repeated: data.source was in memory" in (tmp_path / "out/recipe.yaml").read_text("utf-8")
    with pytest.raises(PotstillError, match=r"data\.source was in memory when this recipe was written.*give --data"):
        check_names(make_recipe(read_file(tmp_path / "out/recipe.yaml")))


def dry(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A dry run of the real command in a folder."""
    command = [sys.executable, "-m", "potstill", "distill", "--dry-run", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_dry_run_checks_and_plans_and_writes_nothing(home: Path) -> None:
    given = ["--teacher", "./bert", "--data", "reviews.csv", *TINY]
    before = sorted(home.rglob("*"))
    done = dry(home, *given, "-o", "new")
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout
    done = dry(home, *given, "-o", "new", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["parameters"] > 0
    for faults, words in (
        (["--set", "data.columns={text: absent}"], "absent"),
        (["--method", "tinybert", "--set", "distill.layers=[[9, 9]]"], "9"),
        (["--set", "distill.losses=[{name: kl, heat: 3}]"], "heat"),
        (["-o", "bert"], "bert holds files that are no run"),
        (["-o", "out", "--seed", "3"], "seed was 0, is 3"),
    ):
        done = dry(home, *given, "--json", *faults)
        assert (done.returncode, done.stdout) == (2, ""), faults
        assert words in done.stderr
    assert sorted(home.rglob("*")) == before


class Interrupting(LoggingObserver):
    """Stops a run once a stage has done some of its work, and keeps what is noted."""

    def __init__(self, stage: str, after: int) -> None:
        super().__init__()
        self.stage, self.after, self.running = stage, after, ""
        self.notes: list[str] = []

    def stage_started(self, name: str, title: str) -> None:
        self.running = name

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        if self.running == self.stage and done >= self.after:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(f"{self.running}: {text}")


@pytest.mark.parametrize("stage", ["teach", "distill"])
def test_a_resumed_run_says_from_which_step(stage: str, small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    config = {
        "teacher": {"epochs": 20, "batch_size": 8},
        "data": {"augment": "none", "max_rows": 60},
        "distill": {"epochs": 20, "batch_size": 8},
        "quantize": "none",
        "evaluate": {"repeats": 2, "batch_sizes": [1]},
    }
    pipeline = DistillationPipeline(teacher_model=small_bert, data=reviews, config=config, output_dir=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(Interrupting(stage, after=100))
    observer = Interrupting("", after=0)
    pipeline.run(observer)
    assert f"{stage}: was begun in an earlier sitting, and goes on where that stopped" in observer.notes
    assert any(re.fullmatch(rf"{stage}: goes on from step \d+ of 160 \(epoch \d+\.\d\d of 20\)", note) for note in observer.notes)
    assert sum("earlier sitting" in note for note in observer.notes) == 1
