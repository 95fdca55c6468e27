"""Other work on the machine is noticed, recorded and said; factors name what they count against."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from potstill.evaluate.measure import Speed
from potstill.exports.timing import Timing, latency, time_interleaved
from potstill.ground.load import heat_events, machine_load, other_work, throttled_seconds
from potstill.report.assemble import note_speed
from potstill.report.card import card
from potstill.report.doubts import doubts
from potstill.report.metrics import Interval, Machine, Metrics, ModelFigures, TeacherAsServed
from potstill.report.page import page
from potstill.report.result import Result
from potstill.report.speedup import speed_note


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
    note = speed_note(metrics(), "student-int8")
    assert note is not None
    for words in ("24.0×", "12.0×", "pytorch-fp32", "onnxruntime-fp32", "onnxruntime-int8"):
        assert words in note.en
        assert words in note.zh
    assert "batch 1" in note.en
    assert "The teacher in onnxruntime-int8 was not measured." in note.en
    summary = " ".join(Result(**metrics().model_dump()).summary().split())
    assert note.en in summary
    assert note.en[1:-1] in card(metrics())
    assert "24.0× faster at batch 1 than the teacher in pytorch-fp32 (12.0× against the teacher in onnxruntime-fp32)" in card(
        metrics()
    )
    assert note.zh in page(metrics(), lang="zh")
    assert page(metrics()).count("12.0× against the teacher in onnxruntime-fp32") == 2  # headline and table
    assert speed_note(Metrics(task="t", metric="accuracy", models={"student": ModelFigures()}), "student") is None


def test_the_teacher_in_the_students_own_form_is_the_second_reference() -> None:
    found = metrics()
    found.teacher_as_served = TeacherAsServed(runtime="onnxruntime-int8", latency_ms={"1": {"p50": 3.0, "threads": 2}})
    note = speed_note(found, "student-int8")
    assert note is not None
    assert "Against the teacher in the same form, 3.00 ms (onnxruntime-int8, 2 threads): 6.00×." in note.en
    assert "not measured" not in note.en
    assert "6.00× against the teacher in onnxruntime-int8" in card(found)
    found.teacher_as_served = TeacherAsServed(reason="dynamic failed on the teacher: no memory")
    note = speed_note(found, "student-int8")
    assert note is not None
    assert "was not measured: dynamic failed on the teacher: no memory." in note.en
    assert "12.0×" in note.en
    del found.models["teacher"].latency_ms["pytorch-fp32"]
    assert "PyTorch" not in card(found).partition("## Use")[0]
    assert "pytorch" not in card(found).partition("## Use")[0]


@pytest.mark.parametrize(
    ("machine", "is_busy"),
    [
        ({}, False),
        ({"other_work": 1, "cpu_share": 0.99}, False),
        ({"other_work": 2}, True),
        ({"cpu_share": 0.6}, True),
        ({"other_work": 1, "threads": 2}, True),
        ({"other_work": 20, "all_cores": 64}, False),
        ({"throttled_share": 0.2}, True),
        ({"heat_events": 3}, True),
        ({"throttled_share": 0.0, "heat_events": 0, "load_average": 5.0}, False),
    ],
)
def test_a_busy_machine_is_a_doubt_in_every_place(machine: dict[str, Any], is_busy: bool) -> None:
    found = metrics(**machine)
    assert any("busy" in doubt.en for doubt in doubts(found)) is is_busy
    assert ("The machine was busy" in " ".join(Result(**found.model_dump()).summary().split())) is is_busy
    assert ("机器繁忙" in page(found, lang="zh")) is is_busy
    assert ("The machine was busy" in card(found)) is is_busy


def test_limits_and_heat_are_read(tmp_path: Path) -> None:
    assert throttled_seconds(tmp_path) is None
    assert heat_events(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.stat").write_text("nr_periods 5\nthrottled_time 2500000000\n", "ascii")
    assert throttled_seconds(tmp_path) == 2.5
    (tmp_path / "cpu.stat").write_text("usage_usec 9\nthrottled_usec 1500000\n", "ascii")
    assert throttled_seconds(tmp_path) == 1.5
    for core in (0, 1):
        (tmp_path / f"cpu{core}" / "thermal_throttle").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "thermal_throttle" / "core_throttle_count").write_text("2\n", "ascii")
    assert heat_events(tmp_path) == 4


def test_times_taken_while_other_processes_work_are_doubted() -> None:
    """With several busy processes for each core, what is measured says so."""
    if other_work() is None:
        pytest.skip("this system has no /proc/loadavg")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
    try:
        time.sleep(0.3)
        load = machine_load()
        times = {"student": {"onnxruntime-int8": latency({"one": Spins(waits=False)}, {1: [{}]}, repeats=30)["one"]}}
    finally:
        for one in busy:
            one.kill()
            one.wait()
    found = metrics(all_cores=os.cpu_count())
    note_speed(found, Speed(times=times, load=load, seconds=1.0), SimpleNamespace(as_served=None, not_as_served=None))  # type: ignore[arg-type]
    assert found.machine.load_average is not None
    assert found.machine.cpu_share is not None
    assert any("other processes that wanted one of" in doubt.en for doubt in doubts(found))


def test_differences_are_doubted_by_their_paired_interval() -> None:
    found = metrics()
    found.data.rows = {"test": 300}
    assert any("uncertain by ±" in doubt.en for doubt in doubts(found))
    found.confidence = {
        "student-int8 - teacher": Interval(low=-0.031, high=0.004, level=0.95),
        "student - baseline": Interval(low=-0.01, high=0.03, level=0.95),
    }
    found.models["baseline"] = ModelFigures(quality={"accuracy": 0.88})
    said = doubts(found)
    wanted = "on them student INT8 differs from the teacher by −2.0 points (95 % interval −3.1 to +0.4, paired)"
    assert any(wanted in doubt.en for doubt in said)
    assert any("may be chance: +1.0 points (95 % interval −1.0 to +3.0, paired)" in doubt.en for doubt in said)
    found.confidence["student - baseline"] = Interval(low=0.002, high=0.03, level=0.95)
    assert not any("may be chance" in doubt.en for doubt in doubts(found))
    assert "+0.2" not in " ".join(doubt.zh for doubt in doubts(found))
