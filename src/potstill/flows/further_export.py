"""Command `export`: one more way of serving the student of a finished run, checked, chosen and measured as the run's own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from potstill.contracts.format import FORMATS
from potstill.contracts.stage import Observer, Stage
from potstill.contracts.target import Target
from potstill.contracts.way import AUTO, OFF, WAYS, modes
from potstill.data.run_rows import read_facts
from potstill.errors import ModelError, OutputError, RecipeError
from potstill.exports.catalogue import check_ways, way_named
from potstill.exports.delivery import Kept, kept_in, plain_in, with_added
from potstill.flows.finished import FinishedRun, names_of
from potstill.flows.observer import LoggingObserver
from potstill.flows.run import GivenSlots
from potstill.ground.disk import write_json_atomic
from potstill.ground.lock import FolderLock
from potstill.ground.tables import nearest
from potstill.report.metrics import Metrics
from potstill.stages.export import ExportOptions
from potstill.stages.report import render_report
from potstill.targets import target_named

MEASURES = ("bytes", "metric", "drop", "p50_ms", "threads", "accepted", "reason")


@dataclass(frozen=True)
class Added:
    """What was added, and the figures of the run with it.

    Args:
        measured: ``name``, ``file``, and what was measured of it.
    """

    measured: Mapping[str, Any]
    notes: tuple[str, ...]
    metrics: Metrics


def add_export(folder: str | Path, to: str, *, overwrite: bool = False, observer: Observer | None = None) -> Added:
    """Export the student of a finished run once more, and measure the run again with it.

    Args:
        to: A mode of `quantize` (``int8``, ``dynamic``, ``openvino`` …), one way by its name, or a format in fp32.
        overwrite: Whether an export of the same name that was added before is made again.

    Raises:
        OutputError: The folder holds no finished run, or has this export.
        RecipeError: There is no such export, or the target does not run it.
        MissingExtra: A package that it needs is not installed.
        ModelError: It could not be made or serves another answer.
    """
    finished = FinishedRun(folder)
    target = target_named(finished.recipe.target)
    mode = mode_of(to, target)
    check_ways(mode, target)
    lock = FolderLock(finished.folder / "run")
    lock.acquire()
    try:
        return _add(finished, mode, overwrite, observer or LoggingObserver())
    finally:
        lock.release()


def mode_of(to: str, target: Target) -> str:
    """The mode of `quantize` that makes an export.

    Raises:
        RecipeError: There is none, or the target does not run it.
    """
    known = [name for name in dict.fromkeys((*FORMATS, *modes())) if name not in (AUTO, OFF)]
    if to not in known:
        guess = nearest(to, known)
        raise RecipeError(
            f"there is no export {to!r}", ", ".join(known), f"did you mean {guess!r}?" if guess else "write --to int8"
        )
    can = [name for name in known if _modes(name, target)]
    if to not in can:
        raise RecipeError(
            f"the target of this run is {target.name}, which does not run {to}", ", ".join(can), f"write --to {can[0]}"
        )
    return _modes(to, target)[0]


def _modes(to: str, target: Target) -> list[str]:
    """The modes of `quantize` that make an export on a target, the one to take first."""
    ways = [way_named(name) for name in WAYS if name in (*target.ways, *target.further_ways)]
    if to in modes():
        return [to] if any(way.is_named(to) or way.precision.name == to for way in ways) else []
    return [way.name for way in ways if way.writes == to and way.precision.is_reference]


def _add(finished: FinishedRun, mode: str, overwrite: bool, observer: Observer) -> Added:
    exports = finished.folder / "export"
    facts = read_facts(exports)
    _refuse_kept(finished, mode, facts, overwrite)
    export, evaluate = (_stage(finished, name) for name in ("export", "evaluate"))
    quantize = finished.recipe.quantize.model_copy(update={"mode": mode})
    options = ExportOptions(quantize, finished.recipe.target, finished.recipe.seed)
    with TemporaryDirectory(prefix=".export-", dir=finished.folder / "work") as place:
        made, whole = Path(place) / "made", Path(place) / "whole"
        made.mkdir()
        observer.stage_started("export", export.title)
        notes = export.work(GivenSlots(finished.run, export.reads, export.name), options, made, observer)
        delivered = read_facts(made)
        name = delivered["served"]["name"]
        if not overwrite and name in {one.name for one in _held(facts)}:
            raise _is_there(finished, name, facts)
        shutil.copytree(exports, whole)
        write_json_atomic(whole / "facts.json", with_added(facts, delivered, made, whole))
        observer.stage_started("evaluate", evaluate.title)
        measured = Path(place) / "measured"
        measured.mkdir()
        given = _WithExport(GivenSlots(finished.run, evaluate.reads, evaluate.name), whole)
        asked = evaluate.options() if callable(evaluate.options) else evaluate.options
        evaluate.work(given, asked, measured, observer)
        metrics = _with_earlier(Metrics.read(measured / "metrics.json"), finished.folder)
        _put(whole, exports, name)
    metrics.write(finished.folder / "work" / "evaluate" / "metrics.json")
    notes = [*notes, *render_report(finished.folder, finished.folder / "report", metrics)]
    one = next(tried for tried in delivered["tries"] if tried["name"] == name)
    file = f"export/{read_facts(exports)['added'][name]['file']}"
    return Added({"name": name, "file": file, **{key: one[key] for key in MEASURES}}, tuple(notes), metrics)


class _WithExport:
    """What a stage is given, with another folder of exports."""

    def __init__(self, given: GivenSlots, export: Path) -> None:
        self.given, self.export = given, export

    def __getattr__(self, role: str) -> Any:
        return getattr(self.given, role)


def _stage(finished: FinishedRun, name: str) -> Stage:
    return next(stage for stage in finished.flow.stages if stage.name == name)


def _held(facts: Mapping[str, Any]) -> list[Kept]:
    return [plain_in(facts), *kept_in(facts).values()]


def _refuse_kept(finished: FinishedRun, mode: str, facts: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse one way that is kept already, before anything is made."""
    found = next((one for one in _held(facts) if one.name == mode), None)
    if found is not None and not (overwrite and found.is_added):
        raise _is_there(finished, mode, facts)


def _is_there(finished: FinishedRun, name: str, facts: Mapping[str, Any]) -> OutputError:
    found = next(one for one in _held(facts) if one.name == name)
    again = "add --overwrite to make it again, or " if found.is_added else ""
    names = ", ".join(dict.fromkeys(each for one in _held(facts) for each in names_of(one)))
    return OutputError(
        f"{finished.folder} has the export {name!r}: {finished.folder / 'export' / found.file}",
        f"an export that is not there yet; there are {names}",
        f"{again}use it: potstill predict {finished.folder} --data FILE --runtime {name}",
    )


def _with_earlier(metrics: Metrics, folder: Path) -> Metrics:
    """The figures with what the run itself said of its stages and its store."""
    try:
        before = Metrics.read(folder / "report" / "metrics.json")
    except OutputError as err:
        raise ModelError(f"{folder} has no figures of its run", "a finished run", "run potstill distill again") from err
    return metrics.model_copy(update={"stages": before.stages, "store": before.store, "title": before.title})


def _put(whole: Path, exports: Path, name: str) -> None:
    """Move the new files to the others; the facts, which make them known, go last."""
    facts = read_facts(whole)
    kept = kept_in(facts)[name]
    kept.format.move(whole / kept.file, exports / kept.file)
    write_json_atomic(exports / "facts.json", facts)
