"""Delivery of a student: exported, tried in every way, and what is kept of it on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from potstill.contracts.format import FORMATS, Axes, Format
from potstill.contracts.runner import Runner
from potstill.contracts.target import Target
from potstill.contracts.way import FP32, Precision, Way
from potstill.exports.catalogue import format_named, way_named
from potstill.exports.choose import Candidate, Choice


@dataclass(frozen=True)
class Kept:
    """A file of the student that is kept."""

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


def deliver(
    model: nn.Module,
    folder: Path,
    *,
    target: Target,
    example_inputs: Mapping[str, Tensor],
    dynamic_axes: Axes,
    ways: Sequence[Way] = (),
    choosing: Callable[..., Choice] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Export a student in the target's first format, and keep what measures best too.

    Args:
        folder: Receives ``model.onnx`` (or the suffix of that format) and the files that are kept.
        choosing: `choose` with its measures; None keeps the export alone.

    Returns:
        Facts, which `plain_in` and `kept_in` read, and notes for the user.

    Raises:
        ModelError: The student cannot be exported, or no candidate can be served.
    """
    work, first, sources = folder / "candidates", target.formats[0], {}
    for name in dict.fromkeys((first, *(way.reads for way in ways))):
        made = format_named(name)
        path = (folder if name == first else work) / f"model{made.suffix}"
        sources[name] = made.export(model, path, example_inputs=example_inputs, dynamic_axes=dynamic_axes)
    exported = sources[first]
    notes = [f"{format_named(first).title} equals PyTorch within {exported.max_abs_difference:.1e} (largest logit difference)"]
    facts: dict[str, Any] = {first: exported.path.name, "max_abs_difference": exported.max_abs_difference}
    if choosing is not None:
        choice = choosing({name: one.path for name, one in sources.items()}, work, ways=ways, target=target)
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
    found = {}
    for key in ("served", "int8"):
        if key in facts and facts[key]["file"] != plain_in(facts).file:
            way = way_named(facts[key]["name"])
            found[key] = Kept(way.name, format_named(way.writes), way.precision, facts[key]["file"], facts[key]["threads"])
    return found


def _keep(choice: Choice, folder: Path, plain: Path) -> dict[str, Any]:
    """Move the chosen candidate, and the best one in integers for comparison, to the export."""
    kept = {"served": choice.chosen}
    rivals = [one for one in choice.tries if one.way.precision.is_integer and one.metric is not None]
    if rivals and not choice.chosen.way.precision.is_integer:
        kept["int8"] = min(rivals, key=lambda one: (not one.accepted, one.p50_ms or 0.0))
    measured = ("bytes", "metric", "drop", "p50_ms", "threads", "accepted", "reason")
    return {
        **{key: _facts(one) | {"file": _move(one, folder, plain), "threads": one.threads} for key, one in kept.items()},
        "chosen": choice.chosen.name,
        "reason": choice.reason,
        "max_drop": choice.max_drop,
        "reference": choice.reference,
        "tries": [
            _facts(one) | {"path": one.path.name} | {name: getattr(one, name) for name in measured} for one in choice.tries
        ],
    }


def _move(candidate: Candidate, folder: Path, plain: Path) -> str:
    """Give the candidate's file its plain name, ``model.int8.onnx``; the export itself stays where it is."""
    path = candidate.path
    if path != plain:
        path = candidate.format.move(path, folder / f"model.{candidate.way.precision.name}{candidate.format.suffix}")
    return path.name


def _facts(candidate: Candidate) -> dict[str, Any]:
    form, precision = candidate.format, candidate.way.precision
    return {"name": candidate.name, "runtime": form.runtime, "format": form.name, "precision": precision.name}
