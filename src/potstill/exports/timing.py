"""Times of several runners, measured against each other so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from potstill.contracts.runner import Runner
from potstill.errors import DataError

LEAST_CALLS = 8  # of each runner, for a median that one disturbed call does not move


@dataclass(frozen=True)
class Timing:
    """Times of one runner, one entry per call.

    Args:
        wall_ms: Wall time [N] in milliseconds.
        cpu_ms: Time of all threads of this process [N] in milliseconds; far above the wall time where cores are shared or spin.
    """

    wall_ms: np.ndarray
    cpu_ms: np.ndarray
    threads: int

    @property
    def cpu_share(self) -> float:
        """CPU time ÷ (wall time × threads) of the median call: near 1 for one thread that nothing disturbs."""
        return float(np.median(self.cpu_ms / np.maximum(self.wall_ms, 1e-9))) / self.threads

    @property
    def p50(self) -> float:
        """Median wall time of a call in milliseconds."""
        return self.percentile(50)

    def percentile(self, share: float) -> float:
        """Wall time below which `share` percent of the calls lie, in milliseconds."""
        return float(np.percentile(self.wall_ms, share))

    def rows_per_second(self, batch_size: int) -> float:
        """Rows answered ÷ wall time of all calls."""
        return 1e3 * batch_size * len(self.wall_ms) / float(self.wall_ms.sum())


def latency(
    runners: Mapping[str, Runner],
    batches: Mapping[int, Sequence[Mapping[str, Any]]],
    *,
    repeats: int = 5,
    warm_up: int = 1,
    seconds: float | None = None,
) -> dict[str, dict[int, Timing]]:
    """Time runners at several batch sizes: name → batch size → times; see `time_interleaved`.

    Args:
        batches: Batch size → batches, from `potstill.evaluate.quality.sample_batches`.

    Raises:
        DataError: No runner, or a size without batches.
    """
    found = {
        size: time_interleaved(runners, inputs, repeats=repeats, warm_up=warm_up, seconds=seconds)
        for size, inputs in sorted(batches.items())
    }
    return {name: {size: timings[name] for size, timings in found.items()} for name in runners}


def time_interleaved(
    runners: Mapping[str, Runner],
    inputs: Sequence[Mapping[str, Any]],
    *,
    repeats: int = 3,
    warm_up: int = 1,
    seconds: float | None = None,
) -> dict[str, Timing]:
    """Time every runner on every input, one call of each in turn.

    Neighbouring calls are of different runners, and each round starts with another runner, so that a load
    on the machine or a warm cache favours none.

    Args:
        warm_up: Rounds before, not counted; they also give every shape to runtimes that prepare for shapes.
        seconds: Stop with the input in which this time is reached, but not before each runner was called `LEAST_CALLS` times.
            Warming up stops likewise, and inputs that it did not reach are not timed. None sets no limit.

    Raises:
        DataError: No input or no runner.
    """
    if not inputs or not runners:
        raise DataError(f"{len(runners)} runners and {len(inputs)} inputs were given to be timed", "at least one of each")
    names = list(runners)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    if warm_up:
        inputs = inputs[: _warm_up(runners, inputs, warm_up, seconds)]
    started = time.perf_counter()
    for turn, batch in enumerate(itertools.chain.from_iterable(itertools.repeat(inputs, max(1, repeats)))):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            cpu_before, before = time.process_time(), time.perf_counter()
            runners[name].run(batch)
            after, cpu_after = time.perf_counter(), time.process_time()
            wall[name].append((after - before) * 1e3)
            cpu[name].append((cpu_after - cpu_before) * 1e3)
        if _is_over(started, seconds, turn + 1):
            break
    return {name: Timing(np.array(wall[name]), np.array(cpu[name]), runners[name].threads) for name in names}


def _warm_up(runners: Mapping[str, Runner], inputs: Sequence[Mapping[str, Any]], rounds: int, seconds: float | None) -> int:
    """Give inputs to every runner, and return how many of them they have seen."""
    started = time.perf_counter()
    for turn in range(rounds * len(inputs)):
        for runner in runners.values():
            runner.run(inputs[turn % len(inputs)])
        if _is_over(started, seconds, turn + 1):
            return min(turn + 1, len(inputs))
    return len(inputs)


def _is_over(started: float, seconds: float | None, calls: int) -> bool:
    return seconds is not None and calls >= LEAST_CALLS and time.perf_counter() - started > seconds
