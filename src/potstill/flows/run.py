"""A run: stages done once and not twice, their results opened through slots, shared ones found in a store."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Declared, Slot, UndeclaredSlotError
from potstill.contracts.stage import Observer, Stage, StageResult
from potstill.errors import PotstillError
from potstill.ground import ranks
from potstill.ground.devices import release_memory
from potstill.ground.disk import StageFolder, fingerprint, read_json, write_json_atomic

PLACES = "work/store.json"  # where results lie that are shared in a store, or absent although an earlier recipe left them
ABSENT = "work/absent"


class Run:
    """One run of a flow.

    Args:
        store: Folder of results that runs share; None: everything lies in the output folder.
    """

    def __init__(self, folder: Path, observer: Observer, *, store: Path | None = None) -> None:
        self.folder, self.observer, self.store = folder, observer, store
        self.results: dict[str, StageResult] = {}
        self.counts: dict[str, Counter[str]] = {}
        self._marks: dict[str, str] = {}
        self._opened: dict[str, Any] = {}
        self._places: dict[str, Path] = {name: Path(place) for name, place in (read_json(folder / PLACES) or {}).items()}

    def place(self, slot: Slot[Any]) -> Path:
        """Where a result lies."""
        return self._places.get(slot.name, self.folder / slot.folder)

    def open(self, slot: Slot[Any]) -> Any:
        """The result, opened once until its stage, or one that it builds on, is done again."""
        if slot.name not in self._opened:
            self._opened[slot.name] = slot.open(self.place(slot), GivenSlots(self, slot.builds_on, slot.name))
        return self._opened[slot.name]

    def mark(self, slot: Slot[Any]) -> str:
        """Fingerprint of a result: of its stage, of what the user gave, or of what the view builds on."""
        if slot.name in self._marks:
            return self._marks[slot.name]
        if slot.content is not None:
            self._marks[slot.name] = fingerprint(slot.content())
            return self._marks[slot.name]
        return fingerprint(self._marks_of(slot.builds_on))

    def _marks_of(self, declared: Declared) -> dict[str, Any]:
        return {
            role: [self.mark(one) for one in slots] if isinstance(slots, tuple) else self.mark(slots)
            for role, slots in declared.items()
        }

    def perform(self, stage: Stage) -> StageResult:
        """Do a stage unless its result is there already, made from the same inputs.

        Of several ranks the first one reads, writes and reports; the others take part in training, and what they write is
        thrown away.

        Raises:
            OutputError: The place holds something else, is locked, or cannot be written.
        """
        result = ranks.from_first(self._lead(stage)) if ranks.is_first() else self._follow(stage)
        self.results[stage.name] = result
        self._marks[stage.writes.name] = result.fingerprint
        self._found(stage.writes, result.place)
        return result

    def fingerprint_of(self, stage: Stage) -> str:
        """Hash of everything that the stage's result depends on."""
        return fingerprint(
            {
                "stage": stage.name if stage.writes.kind is None else stage.writes.kind,
                "version": stage.version,
                "options": _options(stage),
                "reads": self._marks_of(stage.reads),
            }
        )

    def _follow(self, stage: Stage) -> StageResult:
        if ranks.from_first(False):
            with tempfile.TemporaryDirectory(prefix="potstill-rank-") as scratch:
                stage.work(self._given(stage), _options(stage), Path(scratch), self.observer)
        done: Any = ranks.from_first(None)
        result: StageResult = done
        return result

    def _lead(self, stage: Stage) -> StageResult:
        mark = self.fingerprint_of(stage)
        if not stage.is_needed(self._given(stage), _options(stage)):
            ranks.from_first(False)
            self.observer.stage_left_out(stage.name)
            place = self.folder / stage.writes.folder
            place = self.folder / ABSENT if place.exists() else place  # the result of a recipe before this one
            return StageResult(fingerprint({"not needed": mark}), place, 0.0, skipped=True, is_needed=False)
        self.observer.stage_started(stage.name, stage.title)
        started = time.perf_counter()
        kind = stage.writes.kind if self.store is not None else None
        place = self.folder / stage.writes.folder if self.store is None or kind is None else self.store / kind / mark
        with StageFolder(place, mark, replace=True, on_busy=None if kind is None else self._wait) as folder:
            skipped = folder.is_finished()
            ranks.from_first(stage.trains and not skipped)
            if not skipped:
                if folder.is_resumed:
                    self.observer.note("was begun in an earlier sitting, and goes on where that stopped")
                notes = stage.work(self._given(stage), _options(stage), folder.path, self.observer)
                release_memory()
                folder.finish(notes=list(notes))
            record: Mapping[str, Any] = folder.record() or {}
        if kind is not None:
            self.counts.setdefault(kind, Counter(made=0, found=0))["found" if skipped else "made"] += 1
        result = StageResult(mark, place, float(record.get("seconds", 0.0)), skipped, True, tuple(record.get("notes", ())))
        self.observer.stage_finished(stage.name, time.perf_counter() - started, skipped=skipped)
        for note in result.notes:
            self.observer.note(note)
        return result

    def _given(self, stage: Stage) -> GivenSlots:
        return GivenSlots(self, stage.reads, stage.name)

    def _wait(self, error: PotstillError) -> None:
        self.observer.note(f"waiting: {error.given}")

    def _found(self, slot: Slot[Any], place: Path) -> None:
        """Know where a result lies, and open it anew."""
        self._opened.pop(slot.name, None)
        before = self._places.get(slot.name)
        if place == self.folder / slot.folder:
            self._places.pop(slot.name, None)
        else:
            self._places[slot.name] = place
        if self._places.get(slot.name) != before and ranks.is_first():
            (self.folder / PLACES).parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(self.folder / PLACES, {name: str(where) for name, where in self._places.items()})


class GivenSlots:
    """The results that a stage, or the opening of a result, declared, each opened as an attribute."""

    def __init__(self, run: Run, declared: Declared, reader: str) -> None:
        self._run, self._declared, self._reader = run, declared, reader

    def __getattr__(self, role: str) -> Any:
        if role.startswith("__") or role not in self._declared:
            raise UndeclaredSlotError(
                f"{self._reader} opens {role!r}, which it does not declare",
                ", ".join(self._declared) or "nothing",
                "declare it among what the stage reads",
            )
        slots = self._declared[role]
        return tuple(self._run.open(one) for one in slots) if isinstance(slots, tuple) else self._run.open(slots)


def _options(stage: Stage) -> Any:
    return stage.options() if callable(stage.options) else stage.options
