"""A store that runs share: a teacher is trained and asked once, also by runs at the same time and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from potstill import DistillationPipeline
from potstill.flows.reevaluate import reevaluate
from potstill.report.metrics import Metrics

QUICK: dict[str, Any] = {
    "teacher": {"epochs": 2, "learning_rate": 3e-3},
    "data": {"augment": 1},
    "compression_ratio": 0.5,
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 2},
}
KINDS = ("rows", "teacher", "augmented", "answers", "scores")


def distilled(world: tuple[Path, Path], output: Path, store: Path, **distill: Any) -> Metrics:
    config = {**QUICK, "distill": {"epochs": 1, "cache": "always", **distill}}
    return DistillationPipeline(*world, config=config, output_dir=output, store=store).run()


def test_runs_that_differ_in_distill_alone_share_one_teacher(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    world, store = (small_bert, reviews), tmp_path / "store"
    methods = [{"method": "kd"}, {"method": "augmented_kd"}, {"losses": ["kl"]}, {"method": "kd", "temperature": 3.0}]
    found = [distilled(world, tmp_path / f"out-{number}", store, **one) for number, one in enumerate(methods)]
    assert found[0].store == {kind: {"made": 1, "found": 0} for kind in KINDS}
    for metrics in found[1:]:
        assert metrics.store == {kind: {"made": 0, "found": 1} for kind in KINDS}
    assert [len([entry for entry in (store / kind).iterdir() if entry.is_dir()]) for kind in KINDS] == [1] * len(KINDS)
    assert len({json.dumps(metrics.models["teacher"].quality) for metrics in found}) == 1
    out = tmp_path / "out-1"
    assert not (out / "teacher").exists()
    assert (out / "student/model.safetensors").is_file()
    figures = reevaluate(out)["models"]
    assert figures["student"]["quality"] == pytest.approx(found[1].models["student"].quality)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert distilled(world, out, store, method="augmented_kd") == found[1]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_ten_runs_train_and_ask_one_teacher(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    ten: list[dict[str, Any]] = [
        {"method": "kd"},
        {"method": "kd", "temperature": 3.0},
        {"method": "kd", "alpha": 0.5},
        {"method": "kd", "epochs": 2},
        {"method": "kd", "learning_rate": 1e-3},
        {"method": "augmented_kd"},
        {"losses": ["reverse_kl", "ce"]},
        {"losses": ["jsd"]},
        {"losses": ["kl"]},
        {"losses": ["kl", "ce"], "batch_size": 16},
    ]
    found = [
        distilled((small_bert, reviews), tmp_path / f"out-{number}", tmp_path / "store", **one) for number, one in enumerate(ten)
    ]
    totals = {kind: [sum(metrics.store[kind][what] for metrics in found) for what in ("made", "found")] for kind in KINDS}
    assert totals == {kind: [1, 9] for kind in KINDS}
    assert len({json.dumps(metrics.models["teacher"].quality) for metrics in found}) == 1


def test_a_store_changes_no_figure(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    shared = distilled((small_bert, reviews), tmp_path / "shared", tmp_path / "store")
    config = {**QUICK, "distill": {"epochs": 1, "cache": "always"}}
    alone = DistillationPipeline(small_bert, reviews, config=config, output_dir=tmp_path / "alone").run()
    assert alone.store == {}
    for name in ("teacher", "student"):
        assert shared.models[name].quality == alone.models[name].quality


def start(folder: Path, name: str, world: tuple[Path, Path], **distill: Any) -> subprocess.Popen[str]:
    """The real command with a store, in a process of its own."""
    recipe = {
        "teacher": {"model": str(world[0]), **QUICK["teacher"]},
        "data": {"source": str(world[1]), "augment": 1},
        **{key: QUICK[key] for key in ("quantize", "precision", "evaluate")},
        "student": {"ratio": 0.5},
        "distill": {"epochs": 1, "cache": "always", **distill},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe), "utf-8")
    command = [
        sys.executable,
        "-m",
        "potstill.cli",
        "distill",
        str(file),
        "-o",
        str(folder / name),
        "--store",
        str(folder / "store"),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def counts(folder: Path, name: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = json.loads((folder / name / "report/metrics.json").read_text("utf-8"))["store"]
    return found


@pytest.mark.slow
def test_two_runs_at_the_same_time(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    world = (small_bert, reviews)
    both = [start(tmp_path, name, world, method=method) for name, method in (("one", "kd"), ("two", "augmented_kd"))]
    for process in both:
        _, told = process.communicate(timeout=280)
        assert process.returncode == 0, told[-2000:]
    one, two = (counts(tmp_path, name) for name in ("one", "two"))
    for kind in KINDS:
        assert one[kind]["made"] + two[kind]["made"] == 1, (kind, one, two)
        assert one[kind]["found"] + two[kind]["found"] == 1
    assert not list((tmp_path / "store").rglob("*.partial"))


@pytest.mark.slow
def test_killed_while_it_fills_the_store(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    """Every entry is whole or not there: the next run goes on with what was begun, and ends like any other."""
    world, hit = (small_bert, reviews), {}
    for kind in KINDS:
        process, deadline = start(tmp_path, "killed", world), time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if any(len(list(partial.iterdir())) > 1 for partial in (tmp_path / "store" / kind).glob("*.partial")):
                os.kill(process.pid, signal.SIGKILL)
                hit[kind] = True
                break
            time.sleep(0.002)
        process.communicate()
    assert len(hit) >= len(KINDS) - 2, hit
    other = start(tmp_path, "other", world, method="augmented_kd")
    _, told = other.communicate(timeout=280)
    assert other.returncode == 0, told[-2000:]
    assert not list((tmp_path / "store").rglob("*.partial"))
    assert all(sum(count.values()) == 1 for count in counts(tmp_path, "other").values())
