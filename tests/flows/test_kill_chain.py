"""Kill −9 while further teachers and models of a chain are made: run again, the result is that of a run that nobody touched."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file
from test_kill import start

# What lies there when the process is killed; each once, in the order in which a run makes them.
MOMENTS = {
    "takd": [
        "work/teachers/2.partial/model/training/checkpoints/checkpoint-*",
        "work/answers/2.partial/logits*",
        "work/chain.partial/assistant-1/start.partial/model",
        "work/chain.partial/assistant-1/training/checkpoints/checkpoint-*",
        "work/chain.partial/assistant-1/answers*",
        "student.partial/training/prediction/checkpoints/checkpoint-*",
    ],
    "ban": [
        "work/chain.partial/generation-1/training/checkpoints/checkpoint-*",
        "work/chain.partial/generation-2/training/checkpoints/checkpoint-*",
    ],
    "rco": [
        "teacher.partial/training/checkpoints/checkpoint-*",
        "student.partial/training/anchor-1/checkpoints/checkpoint-*",
        "student.partial/training/anchor-2/checkpoints/checkpoint-*",
    ],
}


def kill_when(recipe: Path, folder: Path, pattern: str) -> bool:
    """Run the command and kill it as soon as something of that name is there; whether it was still at work."""
    process, deadline = start(recipe), time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if any(folder.glob(pattern)):
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    return False


def write(folder: Path, name: str, recipe: dict[str, Any]) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**recipe, "output": str(folder / name)}), "utf-8")
    return file


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", list(MOMENTS))
def test_killed_while_a_chain_is_made(
    method: str, small_bert: Path, small_vit: Path, reviews: Path, shapes: Path, tmp_path: Path
) -> None:
    common = {"quantize": "none", "precision": "fp32", "evaluate": {"batch_sizes": [1], "repeats": 16, "similarity_rows": 16}}
    learning = {"method": method, "epochs": 4, "learning_rate": 2e-3, "cache": "always"}
    if method == "takd":
        teacher: dict[str, Any] = {"models": [str(small_bert)] * 2, "combine": "learned", "epochs": 2, "learning_rate": 2e-3}
        recipe = {"teacher": teacher, "data": {"source": str(reviews), "augment": 1}, "student": {"ratio": 0.5}}
    else:
        teacher = {"model": str(small_vit), "from_scratch": True, "epochs": 4}
        if method == "rco":  # whose anchors end where the teacher is best, which must not be its first measurement
            teacher |= {"epochs": 20, "batch_size": 8}
        recipe = {"teacher": teacher, "data": {"source": str(shapes)}, "student": {"ratio": 0.5}}
    recipe |= {**common, "distill": learning}
    assert start(write(tmp_path, "untouched", recipe)).wait() == 0
    killed = write(tmp_path, "killed", recipe)
    hit = [kill_when(killed, tmp_path / "killed", pattern) for pattern in MOMENTS[method]]
    last = start(killed)
    assert last.wait() == 0, last.stderr.read().decode()[-2000:] if last.stderr else ""
    assert sum(hit) >= len(hit) - 1, hit
    files = sorted(path.relative_to(tmp_path / "untouched") for path in (tmp_path / "untouched").rglob("*.safetensors"))
    assert files == sorted(path.relative_to(tmp_path / "killed") for path in (tmp_path / "killed").rglob("*.safetensors"))
    for file in files:
        ours, theirs = (load_file(tmp_path / run / file) for run in ("killed", "untouched"))
        assert ours.keys() == theirs.keys()
        assert all((ours[name] == value).all() for name, value in theirs.items()), file
    assert not list((tmp_path / "killed").rglob("*.partial"))
