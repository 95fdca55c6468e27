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
    """A file of the student that is kept.

    Args:
        is_added: Whether it was made once the run was finished, by its name.
    """

    name: str
    format: Format
    precision: Precision
    file: str
    threads: int | None = None
    is_added: bool = False

    @property
    def title(self) -> str:
        """What lists of files call it: ``"onnx-int8"``; one that was added by its own name."""
        return self.name if self.is_added else f"{self.format.name}-{self.precision.name}"

    @property
    def model_name(self) -> str:
        """What figures call it: by its precision, or in fp32 by its runtime, ``"student-int8"`` or ``"student-openvino"``.

        One that was added goes by its own name, which differs from those of the run's files.
        """
        if self.is_added:
            return f"student-{self.name}"
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
    """What else is kept: the file that is ``served``, the best ``int8`` one where that is another, and what was added."""
    found = {}
    for key in ("served", "int8"):
        if key in facts and facts[key]["file"] != plain_in(facts).file:
            found[key] = _kept(facts[key], is_added=False)
    return found | {name: _kept(one, is_added=True) for name, one in facts.get("added", {}).items()}


def with_added(facts: Mapping[str, Any], delivered: Mapping[str, Any], source: Path, folder: Path) -> dict[str, Any]:
    """The facts of a delivery with what another one chose, whose file moves next to those that are kept.

    Args:
        delivered: Facts of the other delivery.
        source: Its folder.
        folder: Receives the file under the name of its way, ``model.openvino-int8.xml``.
    """
    chosen = delivered["served"]
    form, name = format_named(chosen["format"]), chosen["name"]
    moved = form.move(source / chosen["file"], folder / f"model.{name}{form.suffix}")
    others = [one for one in facts.get("tries", ()) if one["name"] not in {new["name"] for new in delivered["tries"]}]
    added = {**facts.get("added", {}), name: {**chosen, "file": moved.name}}
    return {**facts, "added": added, "tries": [*others, *delivered["tries"]]}


def _kept(facts: Mapping[str, Any], *, is_added: bool) -> Kept:
    way = way_named(facts["name"])
    return Kept(way.name, format_named(way.writes), way.precision, facts["file"], facts["threads"], is_added)


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
