"""Parties of a run: whose knowledge is learned, or who learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Party(ABC):
    """A model of a run with the rows as it reads them: a teacher, a further one, a task's, a student, a model of a chain.

    Attributes:
        name: As messages say it: ``"teacher"``, ``"teacher 2"``, ``"student"``, ``"assistant-1"``.
        rows: The rows that it answers, with their task and labels.
        places: Split → the folder of its rows in the tokens that this party reads.
        cache: The folder of its answers; None where it is asked live.
        measured: Figures of it that were measured, by name.
    """

    name: str
    rows: Any
    places: Mapping[str, Path]
    cache: Path | None
    measured: dict[str, Any]

    @property
    @abstractmethod
    def model(self) -> Any:
        """The model, frozen or in evaluation mode, loaded once."""

    @property
    @abstractmethod
    def processor(self) -> Any:
        """Its tokenizer or image processor."""

    @abstractmethod
    def encoded(self, *names: str) -> Any:
        """Rows in its tokens; several splits are joined."""

    @property
    def collator(self) -> Callable[..., Any]:
        """Makes a batch of its rows."""
        collator: Callable[..., Any] = self.rows.task.collator(self.processor)
        return collator
