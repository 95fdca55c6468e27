"""The choice of how to serve a model: the fastest way whose quality holds, measured on the target."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from potstill.contracts.format import Format
from potstill.contracts.runner import Runner
from potstill.contracts.target import Target
from potstill.contracts.way import OFF, Calibration, Way
from potstill.errors import DataError, ModelError, PotstillError
from potstill.exports.catalogue import format_named
from potstill.exports.runtimes import num_cores
from potstill.exports.timing import time_interleaved
from potstill.ground.counted import counted

logger = logging.getLogger(__name__)

TIE = 1.03  # candidates within 3 % of the fastest count as equally fast; the smallest file is taken
SETTLE_SECONDS = 20.0
LEAST_SHARE = 0.5  # of the weights; below it a file has its precision in name only


@dataclass(frozen=True)
class Candidate:
    """One way of serving the model and what was measured of it.

    Args:
        bytes: Size on disk; 0 where it could not be built.
        metric: The task's metric on the validation rows; None where it failed.
        drop: Reference metric − metric, absolute; None where it failed.
        p50_ms: Median latency of one row in milliseconds, with the best thread count; None where it failed or was not measured.
    """

    way: Way
    path: Path
    bytes: int = 0
    metric: float | None = None
    drop: float | None = None
    p50_ms: float | None = None
    threads: int = 1
    accepted: bool = False
    reason: str = ""

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.way.name

    @property
    def format(self) -> Format:
        """Of the served file."""
        return format_named(self.way.writes)

    def open(self, device: str = "cpu") -> Runner:
        """A runner of this file with the thread count that was measured."""
        return self.format.open(self.path, threads=self.threads, precision=self.way.precision.name, device=device)


@dataclass(frozen=True)
class Choice:
    """What was chosen, why, and everything that was tried."""

    chosen: Candidate
    reason: str
    reference: float
    max_drop: float
    tries: tuple[Candidate, ...]


def choose(
    sources: Mapping[str, str | Path],
    folder: str | Path,
    *,
    ways: Sequence[Way],
    target: Target,
    metric_of: Callable[[Runner], float],
    calibration: Calibration,
    latency_inputs: Sequence[Mapping[str, Any]],
    max_drop: float = 0.01,
    reference: float | None = None,
    on_try: Callable[[str], None] | None = None,
) -> Choice:
    """Build and measure the candidates, and keep the fastest whose metric holds; the smallest where the target is not here.

    Something is always returned: where no candidate holds the metric, the one with the least drop, and the reason says so.
    Files of candidates that were not chosen stay in `folder`; their paths are in `tries`.

    Args:
        sources: Format → fp32 file from its `export`, for each format that the ways read; the first one gives the reference.
        metric_of: Measures a runner on the validation rows; higher is better.
        reference: The metric that drops are taken from; None measures the first source.

    Raises:
        DataError: No row to time.
        ModelError: Every candidate failed.
    """
    if not latency_inputs:
        raise DataError("no row was given to measure latency", "at least one batch of one row")
    files, folder = {name: Path(file) for name, file in sources.items()}, Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if reference is None:
        name, file = next(iter(files.items()))
        reference = float(metric_of(format_named(name).open(file, device=target.usable_device)))
    tried = []
    for way in ways:
        if on_try is not None:
            on_try(way.name)
        tried.append(_try(way, files[way.reads], folder, calibration, metric_of, reference, max_drop, target.usable_device))
    if target.is_here:
        tried = _time(tried, latency_inputs, target)
    chosen, reason = pick(tried, max_drop)
    reason = reason if target.is_here else f"{reason}; speeds were not measured: {target.absent()}"
    return Choice(chosen, reason, reference, max_drop, tuple(tried))


def pick(tries: Sequence[Candidate], max_drop: float) -> tuple[Candidate, str]:
    """The fastest accepted candidate, the smallest among equally fast or untimed ones; else the one with the least drop.

    Raises:
        ModelError: Every candidate failed.
    """
    measured = [candidate for candidate in tries if candidate.drop is not None]
    if not measured:
        raise ModelError(
            f"no candidate could be served ({'; '.join(f'{candidate.name}: {candidate.reason}' for candidate in tries)})",
            todo=f"serve the fp32 file, set quantization: {OFF}",
        )
    accepted = [candidate for candidate in measured if candidate.accepted]
    if not accepted:
        least = min(measured, key=lambda candidate: (candidate.drop, candidate.p50_ms or 0.0))
        return least, f"no candidate stays within a drop of {max_drop:g}; {least.name} has the least drop, {least.drop:.4f}"
    fastest = min(accepted, key=lambda candidate: candidate.p50_ms or 0.0)
    equal = [candidate for candidate in accepted if (candidate.p50_ms or 0.0) <= TIE * (fastest.p50_ms or 0.0)]
    chosen = min(equal, key=lambda candidate: (candidate.bytes, candidate.p50_ms or 0.0))
    others = len(measured) - len(accepted)
    is_timed = chosen.p50_ms is not None
    what = "fastest" if is_timed else "smallest"
    reason = f"{chosen.name} is the {what} of {counted(len(accepted), 'candidate')} within a drop of {max_drop:g}"
    if is_timed and chosen is not fastest:
        reason = f"{chosen.name} is the smallest of those within 3 % of the fastest ({fastest.name})"
    details = f"p50 {chosen.p50_ms:.3f} ms with {counted(chosen.threads or 0, 'thread')}, " if is_timed else ""
    details += f"drop {chosen.drop:+.4f}"
    return chosen, f"{reason}: {details}" + (f"; {others} lost more" if others else "")


def _try(
    way: Way,
    source: Path,
    folder: Path,
    calibration: Calibration,
    metric_of: Callable[[Runner], float],
    reference: float,
    max_drop: float,
    device: str,
) -> Candidate:
    """Build one candidate and measure its quality; a failure is recorded, not raised."""
    candidate = Candidate(way, folder / way.file, threads=num_cores())
    try:
        path = way.make(source, candidate.path, calibration)
        candidate = replace(candidate, path=path, bytes=candidate.format.bytes(path))
        if way.reached is not None and way.reached(path) < LEAST_SHARE:
            reason = "left out: almost all weights stay in fp32 (dynamic quantization does not reach convolutions)"
            return replace(candidate, reason=reason)
        metric = float(metric_of(candidate.open(device)))
    except Exception as error:
        message = str(error) if isinstance(error, PotstillError) else f"{type(error).__name__}: {str(error).splitlines()[:1]}"
        logger.info("candidate %s failed: %s", way.name, error)
        return Candidate(way, folder / way.file, reason=f"failed: {message[:300]}")
    drop = reference - metric
    accepted = drop <= max_drop + 1e-9
    reason = f"drop {drop:+.4f} is {'within' if accepted else 'over'} {max_drop:g}"
    return replace(candidate, metric=metric, drop=drop, accepted=accepted, reason=reason)


def _time(tries: Sequence[Candidate], inputs: Sequence[Mapping[str, Any]], target: Target) -> list[Candidate]:
    """Fill in p50 and thread count: every candidate × thread count, timed in turn."""
    opened = {
        (candidate.name, threads): replace(candidate, threads=threads).open(target.device)
        for candidate in tries
        if candidate.metric is not None
        for threads in target.thread_counts()
    }
    if not opened:
        return list(tries)
    runners = {f"{name}@{threads}": runner for (name, threads), runner in opened.items()}
    timings = time_interleaved(runners, inputs, repeats=5, warm_up=2, seconds=SETTLE_SECONDS)
    best: dict[str, tuple[float, int]] = {}
    for name, threads in opened:
        found = timings[f"{name}@{threads}"].p50, threads
        best[name] = min(found, best.get(name, found))
    return [replace(one, p50_ms=best[one.name][0], threads=best[one.name][1]) if one.name in best else one for one in tries]
