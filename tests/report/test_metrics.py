"""metrics.json: strict, described, finite, and the same after a round trip."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from potstill.errors import OutputError
from potstill.report.metrics import Metrics, history_points, metrics_schema


def test_every_field_of_the_schema_is_described() -> None:
    schema = metrics_schema()
    for part in [schema, *schema["$defs"].values()]:
        for name, field in part["properties"].items():
            assert field.get("description"), (part["title"], name)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_figures_that_are_not_finite_become_null(value: float) -> None:
    metrics = Metrics(
        task="text-classification", metric="accuracy", retention=value, models={"student": {"quality": {"accuracy": value}}}
    )
    assert metrics.retention is None
    assert metrics.models["student"].quality["accuracy"] is None


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="retentoin"):
        Metrics(task="text-classification", metric="accuracy", retentoin=0.9)


def test_numpy_numbers_and_integer_batch_sizes_are_accepted() -> None:
    metrics = Metrics(
        task="text-classification",
        metric="accuracy",
        models={"student": {"parameters": np.int64(7), "latency_ms": {"pytorch-fp32": {1: {"p50": np.float32(0.5)}}}}},
    )
    assert metrics.models["student"].parameters == 7
    assert metrics.models["student"].latency_ms["pytorch-fp32"]["1"].p50 == 0.5


def test_written_and_read_again_is_equal(tmp_path) -> None:
    metrics = Metrics(
        task="image-classification", metric="accuracy", ratio={"asked": 0.9, "achieved": 0.897}, stages={"teach": 1.5}
    )
    path = metrics.write(tmp_path / "report" / "metrics.json")
    assert Metrics.read(path) == metrics
    assert json.loads(path.read_text())["ratio"]["asked"] == 0.9
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_a_missing_file_says_what_to_run(tmp_path) -> None:
    with pytest.raises(OutputError, match="potstill evaluate"):
        Metrics.read(tmp_path / "metrics.json")


def test_a_file_that_does_not_fit_names_the_key(tmp_path) -> None:
    (tmp_path / "metrics.json").write_text('{"task": "t", "metric": "accuracy", "agreement": "high"}')
    with pytest.raises(OutputError, match="agreement"):
        Metrics.read(tmp_path / "metrics.json")


def test_history_keeps_numbers_and_steps_only() -> None:
    points = history_points(
        [{"step": 1, "epoch": 0.5, "loss": 2.0, "note": "x"}, {"train_runtime": 3.0}, {"step": 2, "loss": math.nan}]
    )
    assert [point.step for point in points] == [1, 2]
    assert points[0].values == {"loss": 2.0}
    assert points[1].values == {"loss": None}
