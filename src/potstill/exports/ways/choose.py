"""The fastest way to serve a model whose quality holds, found by measuring every candidate on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from potstill.errors import DataError, ModelError, PotstillError
from potstill.exports.onnx import file_bytes
from potstill.exports.runtimes import OnnxRunner, Runner, num_cores
from potstill.exports.timing import time_interleaved
from potstill.exports.ways.candidates import Way, open_runner, ways_of
from potstill.exports.ways.dynamic import int8_share

logger = logging.getLogger(__name__)

TIE = 1.03  # candidates within 3 % of the fastest count as equally fast; the smallest file is taken
SETTLE_SECONDS = 20.0
LEAST_INT8_SHARE = 0.5  # of the weights; below it a file is INT8 in name only


@dataclass(frozen=True)
class Candidate:
    """One way of serving the model and what was measured of it.

    Args:
        name: What the tables call it.
        runtime: ``"onnxruntime"`` or ``"openvino"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        path: The served file.
        bytes: Size on disk; 0 where it could not be built.
        metric: The task's metric on the validation rows; None where it failed.
        drop: Reference metric − metric, absolute; None where it failed.
        p50_ms: Median latency of one row in milliseconds, with the best thread count; None where it failed.
        threads: The thread count of that latency.
        accepted: The drop is within what is allowed.
        reason: Why it was accepted, refused or failed.
    """

    name: str
    runtime: str
    precision: str
    path: Path
    bytes: int = 0
    metric: float | None = None
    drop: float | None = None
    p50_ms: float | None = None
    threads: int = 1
    accepted: bool = False
    reason: str = ""

    def open(self) -> Runner:
        """A runner of this file with the thread count that was measured."""
        return open_runner(self.runtime, self.path, precision=self.precision, threads=self.threads)


@dataclass(frozen=True)
class Choice:
    """What was chosen, why, and everything that was tried.

    Args:
        chosen: The candidate to serve.
        reason: Why, in one sentence.
        reference: The metric that drops are taken from.
        max_drop: The drop that was allowed.
        tries: Every candidate, failed ones too, in the order tried.
    """

    chosen: Candidate
    reason: str
    reference: float
    max_drop: float
    tries: tuple[Candidate, ...]


def choose(
    source: str | Path,
    folder: str | Path,
    *,
    metric_of: Callable[[Runner], float],
    calibration: Sequence[Mapping[str, Any]],
    latency_inputs: Sequence[Mapping[str, Any]],
    mode: str = "auto",
    max_drop: float = 0.01,
    reference: float | None = None,
    threads: Sequence[int] | None = None,
    on_try: Callable[[str], None] | None = None,
) -> Choice:
    """Build and measure the candidates of `mode`, and keep the fastest whose metric holds.

    Something is always returned: where no candidate holds the metric, the one with the least drop, and the reason says so.
    Files of candidates that were not chosen stay in `folder`; their paths are in `tries`.

    Args:
        source: The fp32 file from `export_onnx`.
        folder: Where candidates are written.
        metric_of: Measures a runner on the validation rows; higher is better.
        calibration: Batches of training rows, for candidates that need them.
        latency_inputs: Single rows of the data's own lengths.
        mode: ``"auto"``, ``"int8"``, ``"none"``, ``"dynamic"``, ``"static"``, ``"fp16"`` or ``"openvino"``.
        max_drop: Largest allowed drop of the metric, absolute.
        reference: The metric that drops are taken from; None measures the fp32 file.
        threads: Thread counts to try; None tries 1 and all cores.
        on_try: Called with the name of each candidate before it is built.

    Raises:
        RecipeError: No such mode.
        DataError: No row to time.
        ModelError: Every candidate failed.
    """
    ways = ways_of(mode)
    if not latency_inputs:
        raise DataError("no row was given to measure latency", "at least one batch of one row")
    source, folder = Path(source), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if reference is None:
        reference = float(metric_of(OnnxRunner(source, threads=num_cores())))
    tried = []
    for way in ways:
        if on_try is not None:
            on_try(way.name)
        tried.append(_try(way, source, folder, calibration, metric_of, reference, max_drop))
    timed = _time(tried, latency_inputs, sorted(set(threads or (1, num_cores()))))
    chosen, reason = pick(timed, max_drop)
    return Choice(chosen, reason, reference, max_drop, tuple(timed))


def pick(tries: Sequence[Candidate], max_drop: float) -> tuple[Candidate, str]:
    """The fastest accepted candidate, the smallest among equally fast ones; else the one with the least drop.

    Raises:
        ModelError: Every candidate failed.
    """
    measured = [candidate for candidate in tries if candidate.p50_ms is not None and candidate.drop is not None]
    if not measured:
        raise ModelError(
            f"no candidate could be served ({'; '.join(f'{candidate.name}: {candidate.reason}' for candidate in tries)})",
            todo="serve the fp32 file, set quantization: none",
        )
    accepted = [candidate for candidate in measured if candidate.accepted]
    if not accepted:
        least = min(measured, key=lambda candidate: (candidate.drop, candidate.p50_ms))
        return least, f"no candidate stays within a drop of {max_drop:g}; {least.name} has the least drop, {least.drop:.4f}"
    fastest = min(accepted, key=lambda candidate: candidate.p50_ms or 0.0)
    equal = [candidate for candidate in accepted if (candidate.p50_ms or 0.0) <= TIE * (fastest.p50_ms or 0.0)]
    chosen = min(equal, key=lambda candidate: (candidate.bytes, candidate.p50_ms))
    others = len(measured) - len(accepted)
    reason = f"{chosen.name} is the fastest of {len(accepted)} candidates within a drop of {max_drop:g}"
    reason = reason if chosen is fastest else f"{chosen.name} is the smallest of those within 3 % of the fastest ({fastest.name})"
    details = f"p50 {chosen.p50_ms:.3f} ms with {chosen.threads} threads, drop {chosen.drop:+.4f}"
    return chosen, f"{reason}: {details}" + (f"; {others} lost more" if others else "")


def _try(
    way: Way,
    source: Path,
    folder: Path,
    calibration: Sequence[Mapping[str, Any]],
    metric_of: Callable[[Runner], float],
    reference: float,
    max_drop: float,
) -> Candidate:
    """Build one candidate and measure its quality; a failure is recorded, not raised."""
    candidate = Candidate(way.name, way.runtime, way.precision, folder / way.file)
    try:
        path = Path(way.build(source, candidate.path, calibration))
        if way.precision == "int8" and path.suffix == ".onnx" and int8_share(path) < LEAST_INT8_SHARE:
            reason = "left out: almost all weights stay in fp32 (dynamic quantization does not reach convolutions)"
            return replace(candidate, bytes=file_bytes(path), reason=reason)
        runner = open_runner(way.runtime, path, precision=way.precision, threads=num_cores())
        metric = float(metric_of(runner))
    except Exception as error:
        message = str(error) if isinstance(error, PotstillError) else f"{type(error).__name__}: {str(error).splitlines()[:1]}"
        logger.info("candidate %s failed: %s", way.name, error)
        return replace(candidate, reason=f"failed: {message[:300]}")
    drop = reference - metric
    accepted = drop <= max_drop + 1e-9
    reason = f"drop {drop:+.4f} is {'within' if accepted else 'over'} {max_drop:g}"
    return replace(candidate, path=path, bytes=file_bytes(path), metric=metric, drop=drop, accepted=accepted, reason=reason)


def _time(tries: Sequence[Candidate], inputs: Sequence[Mapping[str, Any]], threads: Sequence[int]) -> list[Candidate]:
    """Fill in p50 and thread count: every candidate × thread count, timed in turn."""
    runners: dict[str, Runner] = {}
    for candidate in tries:
        if candidate.metric is not None:
            for count in threads:
                runners[f"{candidate.name}@{count}"] = replace(candidate, threads=count).open()
    if not runners:
        return list(tries)
    timings = time_interleaved(runners, inputs, repeats=5, warm_up=2, seconds=SETTLE_SECONDS)
    timed = []
    for candidate in tries:
        best = min(
            ((timings[f"{candidate.name}@{count}"].percentile(50), count) for count in threads if candidate.metric is not None),
            default=None,
        )
        timed.append(candidate if best is None else replace(candidate, p50_ms=best[0], threads=best[1]))
    return timed
