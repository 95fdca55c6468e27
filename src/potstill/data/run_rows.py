"""The rows of a run: splits as a person reads them, and where they lie encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk

from potstill.data.encoded import EncodedRows, concatenate, open_rows
from potstill.data.task_rows import SEPARATOR, SPLITS, blocks_of, of_task, rows_of
from potstill.errors import ModelError
from potstill.ground.disk import read_json

AUGMENTED = "augmented"
LEARNED = ("train", "unlabelled", AUGMENTED)


@dataclass(frozen=True)
class Rows:
    """Rows of a run, or of its task with that number: splits for people, and `places` in the first teacher's tokens."""

    task: Any
    facts: Mapping[str, Any]
    splits: Mapping[str, Path]
    places: Mapping[str, Path]
    number: int | None = None
    _opened: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def all_label_names(self) -> tuple[str, ...]:
        """Position → name, over all tasks."""
        return tuple(self.facts["label_names"])

    @cached_property
    def block(self) -> tuple[int, int]:
        """Where the classes of this task start and stop among those of all tasks."""
        assert self.number is not None
        return list(blocks_of(self.all_label_names).values())[self.number]

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """Position → name, in the order of the logits for these rows; of one task as its own data have them."""
        if self.number is None:
            return self.all_label_names
        return tuple(name.partition(SEPARATOR)[2] for name in self.all_label_names[slice(*self.block)])

    @property
    def names(self) -> list[str]:
        """The splits that there are, augmented rows last."""
        return [name for name in (*SPLITS, AUGMENTED) if self.has(name)]

    def has(self, name: str) -> bool:
        """Whether there are such rows."""
        return name in self.splits and (self.number is None or len(self.split(name)) > 0)

    def split(self, name: str) -> Dataset:
        """Rows as a person reads them: a split of the data, or ``"augmented"``; opened once."""
        if name not in self._opened:
            rows = load_from_disk(str(self.splits[name]))
            self._opened[name] = rows if self.number is None else of_task(rows, self.number, self.block[0])
        return self._opened[name]

    @cached_property
    def train(self) -> EncodedRows:
        """Training rows in the first teacher's tokens."""
        return open_encoded(self.places, ("train",), self.number)

    @cached_property
    def answers(self) -> Any:
        """What is answered and which losses teach it, with the scales of the training labels."""
        return self.task.answers(self.train.labels)

    @cached_property
    def metric(self) -> str:
        """The measure that models are compared by on these rows."""
        return self.task.metric_for(open_encoded(self.places, ("test",), self.number).labels)

    def with_augmented(self, rows: Path, encoded: Path) -> Rows:
        """The same with augmented rows."""
        splits, places = dict(self.splits) | {AUGMENTED: rows}, dict(self.places) | {AUGMENTED: encoded}
        return replace(self, splits=splits, places=places, _opened={})

    def of_task(self, number: int, task: Any) -> Rows:
        """The rows of one of several tasks, labelled with its own classes."""
        return replace(self, number=number, task=task, _opened={})


def open_encoded(places: Mapping[str, Path], names: tuple[str, ...], number: int | None = None) -> EncodedRows:
    """Encoded rows of some splits, one after the other; with a number, those of that task alone."""
    parts = [open_rows(places[name]) for name in names]
    return concatenate(parts if number is None else [rows_of(part, number) for part in parts])


def places_in(folder: Path) -> dict[str, Path]:
    """Split → its folder below a folder."""
    return {name: folder / name for name in (*SPLITS, AUGMENTED) if (folder / name).is_dir()}


def read_facts(folder: Path) -> dict[str, Any]:
    """The ``facts.json`` that a stage left in its folder.

    Raises:
        ModelError: The folder is not as its stage wrote it.
    """
    found = read_json(folder / "facts.json")
    if not isinstance(found, dict):
        raise ModelError(f"{folder} has no facts.json", "the folder as its stage wrote it", "run again with --overwrite")
    return found
