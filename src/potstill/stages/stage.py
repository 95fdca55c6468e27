"""A stage of a run: what it is made from, where it is kept, and how it is done once and not twice."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.ground import ranks
from potstill.ground.disk import StageFolder, fingerprint

if TYPE_CHECKING:
    from potstill.stages.context import Run


TRAINING = ("teach", "baseline", "chain", "distill")
"""Stages, by the first word of their name, in which every rank computes; the first rank does the others alone."""


@dataclass(frozen=True)
class Stage:
    """One step of the flow.

    Args:
        name: Short name, shown in the terminal and in the report.
        title: What it does, in a few words.
        folder: Where its result lies, below the output folder.
        reads: Recipe keys (dotted paths) that its result depends on.
        depends_on: Stages whose results it reads.
        work: Does it, writing into the folder it is given.
        is_needed: Whether this run has it at all.
        version: Raised when the stage's code changes what it writes.
        given: Whatever else its result depends on, found out when the stage is reached.
    """

    name: str
    title: str
    folder: str
    reads: Sequence[str]
    depends_on: Sequence[str]
    work: Callable[[Run, Path], Sequence[str]]
    is_needed: Callable[[Run], bool] = lambda run: True
    version: int = 1
    given: Callable[[Run], Any] | None = None

    @property
    def trains(self) -> bool:
        """Whether every rank takes part."""
        return self.name.split("-")[0] in TRAINING


@dataclass(frozen=True)
class StageResult:
    """What became of a stage in this run."""

    fingerprint: str
    seconds: float
    skipped: bool
    notes: tuple[str, ...] = ()


def perform(stage: Stage, run: Run, *, replace: bool) -> StageResult:
    """Do a stage unless its result is there already, made from the same inputs.

    Of several ranks the first one reads, writes and tells; the others take part in training, and what they write is thrown away.

    Args:
        stage: The stage.
        run: The run; results of earlier stages are in ``run.results``.
        replace: Whether a finished result of other inputs may be replaced.

    Raises:
        OutputError: The place holds something else, is locked, or cannot be written.
    """
    if not ranks.is_first():
        return _follow(stage, run)
    return ranks.from_first(_lead(stage, run, replace=replace))


def _follow(stage: Stage, run: Run) -> StageResult:
    if ranks.from_first(False):
        with tempfile.TemporaryDirectory(prefix="potstill-rank-") as scratch:
            stage.work(run, Path(scratch))
    told: Any = ranks.from_first(None)
    run.forget(stage.folder)
    result: StageResult = told
    return result


def _lead(stage: Stage, run: Run, *, replace: bool) -> StageResult:
    mark = stage_fingerprint(stage, run)
    if not stage.is_needed(run):
        ranks.from_first(False)
        run.observer.stage_left_out(stage.name)
        return StageResult(fingerprint({"not needed": mark}), 0.0, skipped=True)
    run.observer.stage_started(stage.name, stage.title)
    started = time.perf_counter()
    with StageFolder(run.folder / stage.folder, mark, replace=replace) as folder:
        skipped = folder.is_finished()
        ranks.from_first(stage.trains and not skipped)
        if not skipped:
            notes = stage.work(run, folder.path)
            _release_memory()
            folder.finish(notes=list(notes))
        record: Mapping[str, Any] = folder.record() or {}
    run.forget(stage.folder)
    result = StageResult(mark, float(record.get("seconds", 0.0)), skipped, tuple(record.get("notes", ())))
    run.observer.stage_finished(stage.name, time.perf_counter() - started, skipped=skipped)
    for note in result.notes:
        run.observer.note(note)
    return result


def _release_memory() -> None:
    """What the stage held on a GPU is free for the next one."""
    from potstill.ground.devices import release_memory

    release_memory()


def stage_fingerprint(stage: Stage, run: Run) -> str:
    """Hash of everything that the stage's result depends on."""
    inputs = {
        "stage": stage.name,
        "version": stage.version,
        "recipe": {key: _lookup(run.recipe.model_dump(mode="json"), key) for key in stage.reads},
        "upstream": {name: run.results[name].fingerprint for name in stage.depends_on},
    }
    if not stage.depends_on:
        inputs["given"] = run.given_fingerprint()
    if stage.given is not None:
        inputs["given"] = stage.given(run)
    return fingerprint(inputs)


def _lookup(recipe: Mapping[str, Any], path: str) -> Any:
    value: Any = recipe
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value
