"""Recorded outcomes: a flow that runs twice is the same, and what differs is named."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from outcome_world import World
from outcomes import comparable, outcome, verdict

HELD = {"figures": {"agreement": 0.5, "rows": 12}, "notes": ["a note"], "stages": ["teach"], "weights": "ab"}


def test_a_flow_that_runs_twice_is_the_same(tmp_path: Path) -> None:
    runs = []
    for turn in ("first", "second"):
        world = World(tmp_path / turn)
        world.folder.mkdir()
        runs.append(outcome("cnn", world, tmp_path / turn / "out"))
    assert "error" not in runs[0]
    assert runs[0]["stages"][-1] == "report"
    assert runs[0]["figures"]["history"]["distill"]
    assert verdict(*runs) == ("same", {})


def test_equal_figures_of_other_weights_are_a_class_of_their_own() -> None:
    near = {**HELD, "figures": {"agreement": 0.5 + 1e-8, "rows": 12}, "weights": "cd"}
    assert verdict(HELD, near) == ("same figures within 1e-06, other hash", {})
    assert verdict(HELD, {**HELD, "weights": "cd"})[0] == "same figures within 1e-06, other hash"


def test_what_differs_is_named_with_both_values() -> None:
    other = {**HELD, "figures": {"agreement": 0.51, "rows": 13}, "stages": ["teach", "cache"]}
    words, found = verdict(HELD, other)
    assert words == "3 differences"
    assert found == {"figures.agreement": (0.5, 0.51), "figures.rows": (12, 13), "stages.1": ("absent", "cache")}


def test_times_and_the_choice_of_the_fastest_are_left_out() -> None:
    given = {
        "machine": {"cores": 2},
        "history": [{"eval_runtime": 0.1, "loss": 2.0}],
        "notes": ["6 steps in 1.5 s"],
        "chosen": "a",
    }
    assert comparable(given) == {"history": [{"loss": 2.0}], "notes": ["6 steps in <time>"]}
