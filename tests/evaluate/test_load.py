"""Other work on the machine is noticed, recorded and said; factors name what they count against; intervals are paired."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.answers import build as build_answers
from potstill.answers.judging import intervals, judged
from potstill.contracts.answers import Predictions
from potstill.exports.timing import Timing, time_interleaved
from potstill.ground.hardware import other_work
from potstill.report.card import card
from potstill.report.headline import doubts, speed_note
from potstill.report.metrics import Machine, Metrics, ModelFigures
from potstill.report.page import page
from potstill.report.result import Result


def test_a_busy_process_is_seen(tmp_path: Path) -> None:
    assert other_work(tmp_path / "absent") is None
    (tmp_path / "loadavg").write_text("0.10 0.20 0.30 4/321 12345\n", "ascii")
    assert other_work(tmp_path / "loadavg", pause_seconds=0) == 3
    if other_work() is None:
        pytest.skip("this system has no /proc/loadavg")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        time.sleep(0.3)
        assert (other_work() or 0) >= 1
    finally:
        for one in busy:
            one.kill()
            one.wait()


class Spins:
    """A runner that computes for a while, or waits as one does whose core is taken."""

    threads = 1

    def __init__(self, *, waits: bool) -> None:
        self.waits = waits

    def run(self, inputs: Any) -> dict[str, Any]:
        stop = time.perf_counter() + 0.004
        if self.waits:
            time.sleep(0.004)
        while time.perf_counter() < stop:
            pass
        return {}


def test_the_share_of_a_core_is_the_cpu_time() -> None:
    found = time_interleaved({"busy": Spins(waits=False), "waits": Spins(waits=True)}, [{}], repeats=9)
    assert found["waits"].cpu_share < 0.5
    assert Timing(np.array([2.0, 2.0]), np.array([3.0, 4.0]), 2).cpu_share == pytest.approx(0.875)


def metrics(**machine: Any) -> Metrics:
    def model(quality: float, **times: float) -> ModelFigures:
        latency = {runtime.replace("_", "-"): {"1": {"p50": value}} for runtime, value in times.items()}
        return ModelFigures(quality={"accuracy": quality}, parameters=10, bytes=40, latency_ms=latency)

    return Metrics(
        task="text-classification",
        metric="accuracy",
        models={
            "teacher": model(0.9, pytorch_fp32=12.0, onnxruntime_fp32=6.0),
            "student": model(0.89, pytorch_fp32=2.0, onnxruntime_fp32=1.0),
            "student-int8": model(0.88, onnxruntime_int8=0.5),
        },
        served="student-int8",
        machine=Machine(**({"cores": 2, "threads": 1} | machine)),
    )


def test_a_factor_names_both_references_everywhere() -> None:
    note = speed_note(metrics())
    assert note is not None
    for words in ("24.0×", "12.0×", "pytorch-fp32", "onnxruntime-fp32", "batch 1"):
        assert words in note.en
        if words != "batch 1":
            assert words in note.zh
    assert note.en in " ".join(Result(**metrics().model_dump()).summary().split())
    assert "against the teacher's" in card(metrics())
    assert note.zh in page(metrics(), lang="zh")
    assert speed_note(Metrics(task="t", metric="accuracy", models={"student": ModelFigures()})) is None


@pytest.mark.parametrize(
    ("machine", "is_busy"),
    [
        ({}, False),
        ({"other_work": 1, "cpu_share": 0.99}, False),
        ({"other_work": 2}, True),
        ({"cpu_share": 0.6}, True),
        ({"other_work": 1, "threads": 2}, True),
    ],
)
def test_a_busy_machine_is_a_doubt_in_every_place(machine: dict[str, Any], is_busy: bool) -> None:
    found = metrics(**machine)
    assert any("busy" in doubt.en for doubt in doubts(found)) is is_busy
    assert ("The machine was busy" in " ".join(Result(**found.model_dump()).summary().split())) is is_busy
    assert ("机器繁忙" in page(found, lang="zh")) is is_busy


@pytest.mark.parametrize(("kind", "metric"), [("class", "accuracy"), ("labels", "micro_f1"), ("numbers", "concordance")])
def test_the_interval_of_a_difference_is_paired_and_holds_the_truth(kind: str, metric: str) -> None:
    random, held, widths, apart = np.random.default_rng(0), 0, [], []
    for trial in range(40):
        rows = 200
        truth = random.normal(size=rows)
        shared = random.normal(size=rows)
        sides = {
            name: truth + noise * shared + 0.1 * random.normal(size=rows) for name, noise in (("teacher", 0.9), ("student", 1.0))
        }
        judges = {name: judged(answers.judge(), found) for name, (answers, found) in _of(kind, truth, sides).items()}
        names = intervals(judges, metric, resamples=200, seed=trial)
        if not names:
            pytest.skip(f"{metric} is no function of means over rows")
        widths.append(names["student - teacher"].high - names["student - teacher"].low)
        apart.append(names["student." + metric].high - names["teacher." + metric].low)
        held += names["student - teacher"].low <= _expected(kind) <= names["student - teacher"].high
    assert held >= 33  # of 40 intervals at 95 %
    assert np.mean(widths) < np.mean(apart)


def _expected(kind: str) -> float:
    """The difference on very many rows."""
    random = np.random.default_rng(1)
    truth, shared = random.normal(size=200_000), random.normal(size=200_000)
    sides = {
        name: truth + noise * shared + 0.1 * random.normal(size=len(truth))
        for name, noise in (("teacher", 0.9), ("student", 1.0))
    }
    metric = {"class": "accuracy", "labels": "micro_f1", "numbers": "concordance"}[kind]
    values = {
        name: judged(answers.judge(), found).quality()[metric] for name, (answers, found) in _of(kind, truth, sides).items()
    }
    return values["student"] - values["teacher"]


def _of(kind: str, truth: np.ndarray, sides: dict[str, np.ndarray]) -> dict[str, Any]:
    answers, ids = build_answers(kind), np.arange(len(truth))
    if kind == "class":
        answers.label_names, labels = ("no", "yes"), (truth > 0).astype(np.int64)
        logits = {name: np.stack([-side, side], 1).astype(np.float32) for name, side in sides.items()}
    elif kind == "labels":
        answers.label_names, labels = ("a", "b"), np.stack([truth > 0, truth > 1], 1).astype(np.float32)
        logits = {name: np.stack([side, side - 1], 1).astype(np.float32) for name, side in sides.items()}
    else:
        labels = truth[:, None].astype(np.float32)
        logits = {name: side[:, None].astype(np.float32) for name, side in sides.items()}
    return {name: (answers, Predictions(value, labels, ids)) for name, value in logits.items()}
