"""Latency and throughput of every runtime, measured against each other on the data's own lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.contracts.runner import Runner
from potstill.exports.timing import Timing, time_interleaved


@dataclass(frozen=True)
class Latency:
    """Times of one runner at one batch size.

    Args:
        p50: Median wall time of a call in milliseconds.
        p95: 95th percentile, milliseconds.
        p99: 99th percentile, milliseconds.
        rows_per_second: Rows answered ÷ wall time of all calls.
        cpu_ms: Mean CPU time of a call over all threads, milliseconds; far above the wall time means that cores are shared
            or spinning.
        calls: Calls measured.
        threads: Threads that a call may use.
    """

    p50: float
    p95: float
    p99: float
    rows_per_second: float
    cpu_ms: float
    calls: int
    threads: int


def latency(
    runners: Mapping[str, Runner],
    batches: Mapping[int, Sequence[Mapping[str, Any]]],
    *,
    repeats: int = 5,
    warm_up: int = 1,
    seconds: float | None = None,
) -> dict[str, dict[int, Latency]]:
    """Time runners at several batch sizes, one call of each runner in turn.

    Args:
        runners: Name → runner.
        batches: Batch size → batches, from `potstill.evaluate.quality.sample_batches`.
        repeats: Rounds over the batches of a size.
        warm_up: Rounds before, not counted.
        seconds: Stop a batch size when this time is reached; see `time_interleaved`.

    Returns:
        Name → batch size → times.

    Raises:
        DataError: No runner, or a size without batches.
    """
    table: dict[str, dict[int, Latency]] = {name: {} for name in runners}
    for size, inputs in sorted(batches.items()):
        timings = time_interleaved(runners, inputs, repeats=repeats, warm_up=warm_up, seconds=seconds)
        for name, timing in timings.items():
            table[name][size] = _summary(timing, size, runners[name].threads)
    return table


def _summary(timing: Timing, size: int, threads: int) -> Latency:
    return Latency(
        p50=timing.percentile(50),
        p95=timing.percentile(95),
        p99=timing.percentile(99),
        rows_per_second=1e3 * size * len(timing.wall_ms) / float(timing.wall_ms.sum()),
        cpu_ms=float(timing.cpu_ms.mean()),
        calls=len(timing.wall_ms),
        threads=threads,
    )
