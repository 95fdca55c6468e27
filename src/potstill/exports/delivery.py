"""Delivery of a student: exported, tried in every way, and what is kept of it on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from potstill.contracts.format import FORMATS, Axes, Format
from potstill.contracts.runner import Runner
from potstill.contracts.target import Target
from potstill.contracts.way import FP32, PRECISIONS, Calibration, Precision, Way
from potstill.exports.catalogue import format_named
from potstill.exports.choose import Candidate, Choice, choose


@dataclass(frozen=True)
class Trial:
    """What `choose` needs besides the exported files; see there."""

    ways: Sequence[Way]
    metric_of: Callable[[Runner], float]
    calibration: Calibration
    latency_inputs: Sequence[Mapping[str, Any]]
    max_drop: float = 0.01
    on_try: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Kept:
    """A file of the student that is kept.

    Args:
        name: The way that made it.
        format: Of the file.
        precision: Of its weights.
        file: Main file, in the folder of the delivery.
        threads: Of one call; None where that is to be measured.
    """

    name: str
    format: Format
    precision: Precision
    file: str
    threads: int | None = None

    @property
    def model_name(self) -> str:
        """What figures call it: by its precision, or in fp32 by its runtime, ``"student-int8"`` or ``"student-openvino"``."""
        return f"student-{self.format.runtime if self.precision.is_reference else self.precision.name}"

    def open(self, folder: Path, *, threads: int | None = None, device: str = "cpu") -> Runner:
        """A runner of it with `threads`, else with its own number of them."""
        return self.format.open(folder / self.file, threads=threads or self.threads, precision=self.precision.name, device=device)

    def bytes(self, folder: Path) -> int:
        """Size of all its files."""
        return self.format.bytes(folder / self.file)

    def as_facts(self) -> dict[str, Any]:
        """As `kept_in` reads it."""
        return {
            "name": self.name,
            "runtime": self.format.runtime,
            "format": self.format.name,
            "precision": self.precision.name,
            "file": self.file,
            "threads": self.threads,
        }


def deliver(
    model: nn.Module,
    folder: Path,
    *,
    target: Target,
    example_inputs: Mapping[str, Tensor],
    dynamic_axes: Axes,
    trial: Trial | None,
) -> tuple[dict[str, Any], list[str]]:
    """Export a student in the target's first format, and keep what measures best beside it.

    Args:
        model: The student.
        folder: Receives ``model.onnx`` (or the suffix of that format) and the files that are kept.
        target: Hardware that will serve.
        example_inputs: See `Format.export`.
        dynamic_axes: See there.
        trial: The ways to try; None keeps the export alone.

    Returns:
        Facts, which `plain_in` and `kept_in` read, and notes for the user.

    Raises:
        ModelError: The student cannot be exported, or no candidate can be served.
    """
    work, sources = folder / "candidates", {}
    first = target.formats[0]
    for name in dict.fromkeys((first, *(way.reads for way in trial.ways))) if trial else (first,):
        made = format_named(name)
        path = (folder if name == first else work) / f"model{made.suffix}"
        sources[name] = made.export(model, path, example_inputs=example_inputs, dynamic_axes=dynamic_axes)
    exported = sources[first]
    notes = [f"{format_named(first).title} equals PyTorch within {exported.max_abs_difference:.1e} (largest logit difference)"]
    facts: dict[str, Any] = {first: exported.path.name, "max_abs_difference": exported.max_abs_difference}
    if trial is not None:
        options = {field.name: getattr(trial, field.name) for field in fields(trial)}
        choice = choose({name: one.path for name, one in sources.items()}, work, target=target, **options)
        facts |= _keep(choice, folder, exported.path)
        notes.append(choice.reason)
    shutil.rmtree(work, ignore_errors=True)
    return facts, notes


def plain_in(facts: Mapping[str, Any]) -> Kept:
    """The exported file in fp32 of a delivery's facts."""
    name = next(name for name in FORMATS if name in facts)
    return Kept(FP32.name, format_named(name), FP32, facts[name])


def kept_in(facts: Mapping[str, Any]) -> dict[str, Kept]:
    """What else is kept: the file that is ``served``, and the best ``int8`` one where that is another."""
    plain = plain_in(facts).file
    return {key: _read(facts[key]) for key in ("served", "int8") if key in facts and facts[key]["file"] != plain}


def _read(facts: Mapping[str, Any]) -> Kept:
    by_runtime = next(one for one in map(format_named, FORMATS) if one.runtime == facts["runtime"])
    form = format_named(facts["format"]) if "format" in facts else by_runtime
    return Kept(facts["name"], form, PRECISIONS[facts["precision"]], facts["file"], facts["threads"])


def _keep(choice: Choice, folder: Path, plain: Path) -> dict[str, Any]:
    """Move the chosen candidate, and the best one in integers for comparison, beside the export."""
    kept = {"served": _move(choice.chosen, folder, plain)}
    if not choice.chosen.way.precision.is_integer:
        rivals = [one for one in choice.tries if one.way.precision.is_integer and one.metric is not None]
        if rivals:
            kept["int8"] = _move(min(rivals, key=lambda one: (not one.accepted, one.p50_ms or 0.0)), folder, plain)
    return {
        **{key: one.as_facts() for key, one in kept.items()},
        "chosen": choice.chosen.name,
        "reason": choice.reason,
        "max_drop": choice.max_drop,
        "reference": choice.reference,
        "tries": [_as_facts(one) for one in choice.tries],
    }


def _move(candidate: Candidate, folder: Path, plain: Path) -> Kept:
    """Give the candidate's file its plain name, ``model.int8.onnx``; the export itself stays where it is."""
    form, precision = candidate.format, candidate.way.precision
    path = candidate.path
    if path != plain:
        path = form.move(path, folder / f"model.{precision.name}{form.suffix}")
    return Kept(candidate.name, form, precision, path.name, candidate.threads)


def _as_facts(candidate: Candidate) -> dict[str, Any]:
    measured = ("bytes", "metric", "drop", "p50_ms", "threads", "accepted", "reason")
    return {
        "name": candidate.name,
        "runtime": candidate.format.runtime,
        "format": candidate.format.name,
        "precision": candidate.way.precision.name,
        "path": candidate.path.name,
    } | {name: getattr(candidate, name) for name in measured}
