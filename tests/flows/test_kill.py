"""Kill −9 in every stage, run again each time: the result is that of a run that nobody touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

STAGES = {
    "data": "work/data",
    "teach": "teacher",
    "augment": "work/augment",
    "cache": "work/cache",
    "student": "work/student",
    "baseline": "work/baseline",
    "distill": "student",
    "export": "export",
    "evaluate": "work/evaluate",
    "report": "report",
}
RECIPE: dict[str, Any] = {
    "student": {"ratio": 0.5},
    "distill": {"epochs": 3, "learning_rate": 2e-3, "cache": "always"},
    "quantize": "none",
    "baseline": True,
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 16},
}


def start(recipe: Path) -> subprocess.Popen[bytes]:
    """The real command, in a process of its own."""
    command = [sys.executable, "-m", "potstill.cli", "distill", str(recipe)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def write_recipe(folder: Path, teacher: Path, data: Path, name: str) -> Path:
    """A recipe whose output lies in `folder`."""
    recipe = {
        "teacher": {"model": str(teacher), "epochs": 2, "learning_rate": 2e-3},
        "data": {"source": str(data), "augment": 1},
        "output": str(folder / name),
        **RECIPE,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe), "utf-8")
    return file


def kill_in(process: subprocess.Popen[bytes], folder: Path) -> bool:
    """Kill the process as soon as the stage has begun to write; whether it was still at it."""
    partial = folder.with_name(folder.name + ".partial")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if partial.is_dir() and len(list(partial.iterdir())) > 1:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return not folder.exists() or partial.exists()
        time.sleep(0.002)
    return False


@pytest.mark.slow
def test_killed_in_every_stage_ends_like_an_untouched_run(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    untouched = write_recipe(tmp_path, small_bert, reviews, "untouched")
    assert start(untouched).wait() == 0
    killed = write_recipe(tmp_path, small_bert, reviews, "killed")
    hit = {name: kill_in(start(killed), tmp_path / "killed" / folder) for name, folder in STAGES.items()}
    last = start(killed)
    assert last.wait() == 0, last.stderr.read().decode()[-2000:] if last.stderr else ""
    assert sum(hit.values()) >= 8, hit
    for part in ("teacher", "student", "work/baseline/model"):
        ours, theirs = (load_file(tmp_path / run / part / "model.safetensors") for run in ("killed", "untouched"))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert (ours[name] == value).all(), f"{part} {name}"
    assert not list((tmp_path / "killed").rglob("*.partial"))
