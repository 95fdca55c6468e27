"""Entities out of tags, and how many of them are found: F1 as the CoNLL shared tasks count it."""

# U words of a row

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Entity = tuple[str, int, int]
_AS = {"S": "B", "E": "I"}


def entities_of(tags: Sequence[str]) -> set[Entity]:
    """The entities of a row: (type, first word, word after the last).

    An entity begins at B-, or at I- where no entity of its type runs; it ends before the next beginning, another type or O.
    S- counts as B- and E- as I-.

    Source: Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 shared task", whose conlleval counts
    entities as right where type and both ends are.

    Example:
        >>> sorted(entities_of(["B-LOC", "I-LOC", "O", "I-PER"]))
        [('LOC', 0, 2), ('PER', 3, 4)]
    """
    found: set[Entity] = set()
    running, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        mark, _, kind = tag.partition("-")
        mark = _AS.get(mark, mark)
        goes_on = mark == "I" and kind == running
        if running and not goes_on:
            found.add((running, start, place))
            running = ""
        if mark in ("B", "I") and not goes_on:
            running, start = kind, place
    return found


@dataclass
class EntityCounts:
    """How many entities there are, were named, and were named rightly, by type."""

    true: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)

    def add(self, true: set[Entity], named: set[Entity]) -> None:
        """Count the entities of one row."""
        for counter, entities in ((self.true, true), (self.named, named), (self.right, true & named)):
            counter.update(kind for kind, _, _ in entities)

    def scores(self, kind: str | None = None) -> dict[str, float]:
        """``precision``, ``recall`` and ``f1``, of one type or of all together; 0 where nothing was named or is there.

        With neither an entity nor a named one, F1 is 0, as conlleval has it.
        """
        true, named, right = (
            sum(counter.values()) if kind is None else counter[kind] for counter in (self.true, self.named, self.right)
        )
        return {
            "precision": right / named if named else 0.0,
            "recall": right / true if true else 0.0,
            "f1": 2 * right / (true + named) if true + named else 0.0,
        }


def count_entities(true: Iterable[Sequence[str]], named: Iterable[Sequence[str]]) -> EntityCounts:
    """Counts over rows of tags, of both sides in the same order."""
    counts = EntityCounts()
    for true_tags, named_tags in zip(true, named, strict=True):
        counts.add(entities_of(true_tags), entities_of(named_tags))
    return counts
