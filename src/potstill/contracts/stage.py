"""Stages: the steps of a run, what they are made from, and the events that they report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from potstill.contracts.slot import Declared, Given, Slot


class Observer(Protocol):
    """Receives the events of a run, in order."""

    def stage_started(self, name: str, title: str) -> None:
        """A stage begins."""

    def stage_step(self, text: str) -> None:
        """The running stage begins a part of its work, named in a few words."""

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """The running stage has done `done` of `total` units; `figures` are the newest values worth showing."""

    def stage_finished(self, name: str, seconds: float, *, skipped: bool) -> None:
        """A stage is whole, or was whole before."""

    def stage_left_out(self, name: str) -> None:
        """This run does without the stage."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def warn(self, text: str) -> None:
        """Something doubtful, with its remedy."""


Work = Callable[[Given, Any, Path, Observer], Sequence[str]]
"""Does a stage: what was given to it, its options, the folder that it fills, who follows its progress; returns notes."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One step of a flow. It sees its options and the slots that it declares, and nothing else of the run.

    Args:
        name: Short name, shown in the terminal and in the report.
        title: What it does, in a few words.
        writes: The slot that it fills.
        reads: Role → slots that it opens.
        options: A dataclass, or a function that makes it once earlier stages are done; fields that are left out of comparison
            do not decide the result.
        work: Does it.
        is_needed: Whether this run has it at all, from the same slots and options.
        trains: Whether every rank takes part; the first one does all others alone.
        version: Raised when the stage's code changes what it writes.
    """

    name: str
    title: str
    writes: Slot[Any]
    reads: Declared
    options: Any
    work: Work
    is_needed: Callable[[Given, Any], bool] = field(default=lambda given, options: True)
    trains: bool = False
    version: int = 1


@dataclass(frozen=True)
class StageResult:
    """What became of a stage in this run.

    Args:
        seconds: Of work, over all sittings.
    """

    fingerprint: str
    place: Path
    seconds: float
    skipped: bool
    is_needed: bool = True
    notes: tuple[str, ...] = ()
