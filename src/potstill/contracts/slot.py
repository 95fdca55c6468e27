"""Slots: named, typed results of stages, and what a stage may open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from potstill.errors import PotstillError

Opened = TypeVar("Opened", covariant=True)
Declared = Mapping[str, "Slot[Any] | tuple[Slot[Any], ...]"]
"""Role → slot, or several slots: what a stage, or the opening of a slot, may read."""


class UndeclaredSlotError(PotstillError, AttributeError):
    """A stage opens a result that it did not declare."""


class Given(Protocol):
    """The opened results that a stage declared, each as an attribute under its role."""

    def __getattr__(self, role: str) -> Any:
        """The result in that role, opened once.

        Raises:
            UndeclaredSlotError: The role was not declared.
        """


@dataclass(frozen=True, eq=False)
class Slot(Generic[Opened]):
    """A result of a stage, a view of other results, or what the user gave.

    Args:
        name: Unique in a flow: ``"teacher"``, ``"answers-2"``.
        open: Makes the result from its folder, which is absent where its stage was not needed, and from what it builds on.
        folder: Where it lies below the run's folder; empty for views and for what was given.
        builds_on: Role → the slots that opening it reads.
        content: Of what the user gave: a value that says what it is, for fingerprints.
        kind: Name of its shelf in a store that runs share; None: it stays in the run's own folder.
    """

    name: str
    open: Callable[[Path, Given], Opened]
    folder: str = ""
    builds_on: Declared = field(default_factory=dict)
    content: Callable[[], Any] | None = None
    kind: str | None = None
