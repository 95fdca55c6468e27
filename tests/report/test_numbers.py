"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from potstill.report import numbers
from potstill.report.plots.canvas import Axis


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (0.04200, "0.042"), (0.9, "0.9"), (1.9, "1.90"), (123.4, "123"), (1234.6, "1,235")],
)
def test_significant(value, text) -> None:
    assert numbers.significant(value) == text


@pytest.mark.parametrize(("value", "text"), [(999, "999 B"), (1000, "1.00 kB"), (3_210_000, "3.21 MB"), (120_400, "120 kB")])
def test_sizes_are_decimal(value, text) -> None:
    assert numbers.size(value) == text


def test_quality_is_percent_only_where_it_is_a_share() -> None:
    assert numbers.quality("accuracy", 0.9612) == "96.1 %"
    assert numbers.quality("mse", 0.25) == "0.250"


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 1, False), (93.2, 97.8, False), (0.04, 3, True), (1e-5, 1e-4, True), (5, 5.1, True)]
)
def test_ticks_lie_inside_the_axis_and_are_few(low, high, log) -> None:
    ticks = Axis(low, high, 0, 100, log=log).ticks()
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
