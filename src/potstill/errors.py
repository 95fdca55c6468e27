"""Errors that Potstill raises on purpose: what was given, what is accepted, what to do."""

from __future__ import annotations

from collections.abc import Iterable


class PotstillError(Exception):
    """An error that the user can correct, in three parts.

    Args:
        given: What was given and why it does not work.
        accepted: What is accepted instead; left out where it is obvious.
        todo: The edit or the command that corrects it.

    Example:
        >>> print(PotstillError("ratio is 1.2", "a number from 0 to 0.95", "set ratio: 0.9"))
        ratio is 1.2. Accepted: a number from 0 to 0.95. What to do: set ratio: 0.9.
    """

    def __init__(self, given: str, accepted: str = "", todo: str = "") -> None:
        self.given, self.accepted, self.todo = given, accepted, todo
        super().__init__(given, accepted, todo)

    def __str__(self) -> str:
        beats = [self.given]
        if self.accepted:
            beats.append(f"Accepted: {self.accepted}")
        if self.todo:
            beats.append(f"What to do: {self.todo}")
        return " ".join(beat if beat.endswith((".", "?", "!")) else f"{beat}." for beat in beats)


class RecipeError(PotstillError, ValueError):
    """A recipe key, value or combination that cannot work."""


class DataError(PotstillError, ValueError):
    """A data source, column, label or row that cannot be used."""


class ModelError(PotstillError, ValueError):
    """A teacher or student that cannot be loaded, aligned or cut."""


class CacheError(PotstillError, ValueError):
    """A knowledge cache that is damaged or belongs to something else."""


class NeedsError(PotstillError, ValueError):
    """A loss or method needs knowledge that the models or the source do not provide."""


class OutputError(PotstillError, OSError):
    """The output folder cannot be written or belongs to another recipe."""


class TrainingError(PotstillError, RuntimeError):
    """Training cannot go on, for example because a loss is not finite."""


class MissingExtra(PotstillError, ImportError):
    """An optional dependency is needed and not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs a package that is not installed",
            todo=f"pip install 'potstill[{extra}]'",
        )


class Faults(PotstillError, ValueError):
    """Several faults found in one pass and reported together."""

    def __init__(self, faults: Iterable[PotstillError]) -> None:
        self.faults = tuple(faults)
        Exception.__init__(self, "\n".join(f"- {fault}" for fault in self.faults))

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return str(self.faults[0])
        return f"{len(self.faults)} faults found:\n" + "\n".join(f"- {fault}" for fault in self.faults)


def raise_faults(faults: Iterable[PotstillError]) -> None:
    """Raise what was found: nothing where there is no fault, one fault as it is, several together; each is said once."""
    single = (one for fault in faults for one in (fault.faults if isinstance(fault, Faults) else (fault,)))
    distinct = list({str(fault): fault for fault in single}.values())
    if distinct:
        raise distinct[0] if len(distinct) == 1 else Faults(distinct)


def first_line(err: BaseException) -> str:
    """What another library's error says, in one line."""
    lines = str(err).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(err).__name__
