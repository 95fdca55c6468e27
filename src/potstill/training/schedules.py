"""Values that change over training: weights and temperatures as functions of progress.

Progress is the share of optimizer steps already done: 0 at the first step, towards 1 at the last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from potstill.errors import RecipeError
from potstill.ground.tables import nearest

_ACCEPTED = "a number, {linear: [from, to]}, {cosine: [from, to]}, {ramp_up: [peak, share]} or {phases: [[until, value], …]}"


@runtime_checkable
class Schedule(Protocol):
    """A value that depends on progress alone, so that a resumed run continues it exactly."""

    def __call__(self, progress: float) -> float:
        """The value at this share of training, 0 to 1."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same value throughout.

    Example:
        >>> Constant(0.7)(0.9)
        0.7
    """

    value: float

    def __call__(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` on a straight line.

    Example:
        >>> Linear(1.0, 0.0)(0.25)
        0.75
    """

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * _clamp(progress)


@dataclass(frozen=True)
class Cosine(Linear):
    """From `start` to `end` on half a cosine wave: slow, fast, slow.

    Example:
        >>> round(Cosine(4.0, 1.0)(0.5), 6)
        2.5
    """

    def __call__(self, progress: float) -> float:
        share = (1.0 - math.cos(math.pi * _clamp(progress))) / 2.0
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class RampUp:
    """To `peak` along exp(−5 (1 − x)²), x the share that is done of the first `share` of training; then `peak`.

    Source: Laine and Aila 2017 (arXiv 1610.02242), section 3.

    Example:
        >>> rise = RampUp(100.0, 0.5)
        >>> round(rise(0.0), 2), round(rise(0.25), 2), rise(0.5)
        (0.67, 28.65, 100.0)
    """

    peak: float
    share: float

    def __call__(self, progress: float) -> float:
        done = 1.0 if self.share <= 0 else _clamp(progress / self.share)
        return self.peak * math.exp(-5.0 * (1.0 - done) ** 2)


@dataclass(frozen=True)
class Phases:
    """Step by phase: each value holds until its share of training is done.

    Args:
        phases: ``(until, value)`` in rising order of `until`; the last one ends at 1.

    Example:
        >>> early_features = Phases(((0.5, 0.7), (1.0, 0.1)))
        >>> early_features(0.49), early_features(0.5)
        (0.7, 0.1)
    """

    phases: tuple[tuple[float, float], ...]

    def __call__(self, progress: float) -> float:
        for until, value in self.phases:
            if progress < until:
                return value
        return self.phases[-1][1]


@dataclass(frozen=True)
class PerSample:
    """A temperature for each row: `high` where the teacher is sure, `low` where it hesitates between all classes.

    Formula: τ_i = low + (high − low) · (1 − H(p_i) / log C), with p the teacher's distribution at τ = 1. What the teacher says
    with certainty is softened most, since only then do its other classes say something; what it already doubts is left sharp.
    Source: ours, after Li et al. 2023 (arXiv 2211.16231), whose per-instance temperatures a network learns.

    Example:
        >>> PerSample(1.0, 4.0)(0.3)
        2.5
    """

    low: float
    high: float

    def __call__(self, progress: float) -> float:
        """The middle, where rows are measured together."""
        return (self.low + self.high) / 2


_OF_TWO_NUMBERS: Mapping[str, Callable[[float, float], Schedule]] = {"linear": Linear, "cosine": Cosine, "ramp_up": RampUp}


def parse_temperature(value: Any, *, name: str) -> Schedule:
    """Read a temperature: a schedule as `parse` has it, or ``{per_sample: [low, high]}``.

    Raises:
        RecipeError: Anything else, or a temperature that is not above 0.

    Example:
        >>> parse_temperature({"per_sample": [1, 4]}, name="temperature").high
        4.0
    """
    if not (isinstance(value, Mapping) and set(value) == {"per_sample"}):
        schedule = parse(value, name=name)
        if min(ends_of(schedule)) <= 0:
            raise RecipeError(f"{name} is {value!r}", "temperatures above 0, at both ends of a schedule", "write for example 4.0")
        return schedule
    ends = value["per_sample"]
    if not (_are_two_numbers(ends) and 0 < ends[0] <= ends[1]):
        raise RecipeError(
            f"{name} is {dict(value)!r}", "{per_sample: [low, high]} with 0 < low ≤ high", "for example {per_sample: [1.0, 4.0]}"
        )
    return PerSample(float(ends[0]), float(ends[1]))


def parse_share(value: Any, *, name: str) -> Schedule:
    """Read a schedule as `parse` has it, of shares from 0 to 1.

    Raises:
        RecipeError: Anything else, or a value outside.
    """
    guess = f"did you mean {value / 100:g}?" if _is_number(value) and 1 < value <= 100 else "write for example 0.7"
    return _parse_within(value, name, 0, 1, "shares from 0 to 1", guess)


def parse_weight(value: Any, *, name: str) -> Schedule:
    """Read a schedule as `parse` has it, of factors that are not below 0: a negative one would teach the opposite.

    Raises:
        RecipeError: Anything else, or a negative value.
    """
    return _parse_within(value, name, 0, math.inf, "0 or more", "write a positive number, or leave the term out")


def _parse_within(value: Any, name: str, low: float, high: float, accepted: str, todo: str) -> Schedule:
    schedule = parse(value, name=name)
    if not all(low <= end <= high for end in ends_of(schedule)):
        raise RecipeError(f"{name} is {value!r}", accepted, todo)
    return schedule


def ends_of(schedule: Schedule) -> tuple[float, ...]:
    """Values between which a schedule stays; of one that is not known here, those at the first, the middle and the last step.

    Example:
        >>> ends_of(Linear(1.0, 0.0))
        (1.0, 0.0)
    """
    if isinstance(schedule, Phases):
        return tuple(value for _, value in schedule.phases)
    if isinstance(schedule, Linear):
        return schedule.start, schedule.end
    return tuple(schedule(progress) for progress in (0.0, 0.5, 1.0))


def parse(value: Any, *, name: str = "the schedule") -> Schedule:
    """Read a schedule as a recipe writes it.

    Args:
        value: A number, a mapping with one of the keys constant, linear, cosine, ramp_up and phases, or a schedule already.
        name: What is scheduled, for the message ("weight of 'kl'").

    Raises:
        RecipeError: Anything else, an unknown kind, or phases that do not rise to 1.

    Example:
        >>> parse({"linear": [2, 1]}, name="temperature")(0.5)
        1.5
    """
    if _is_number(value):
        return Constant(float(value))
    if isinstance(value, Mapping):
        return _from_mapping(value, name)
    if isinstance(value, Schedule):
        return value
    raise _refuse(value, name)


def is_schedule(value: Any) -> bool:
    """Whether `value` changes over training (a mapping or a schedule that is not `Constant`)."""
    return isinstance(value, Mapping) or (callable(value) and not isinstance(value, Constant))


def _from_mapping(value: Mapping[str, Any], name: str) -> Schedule:
    if len(value) != 1:
        raise _refuse(dict(value), name)
    form, parts = next(iter(value.items()))
    if form not in ("constant", "phases", *_OF_TWO_NUMBERS):
        guess = nearest(str(form), ("constant", "phases", *_OF_TWO_NUMBERS))
        raise RecipeError(
            f"{name} has the schedule {form!r}, which does not exist", _ACCEPTED, f"write {guess!r}" if guess else ""
        )
    if form == "constant" and _is_number(parts):
        return Constant(float(parts))
    if form == "phases":
        return Phases(_read_phases(parts, name))
    if form not in _OF_TWO_NUMBERS or not _are_two_numbers(parts):
        raise _refuse(dict(value), name)
    return _OF_TWO_NUMBERS[form](float(parts[0]), float(parts[1]))


def _read_phases(parts: Any, name: str) -> tuple[tuple[float, float], ...]:
    pairs = list(parts) if _is_list(parts) else []
    if not pairs or not all(map(_are_two_numbers, pairs)):
        raise _refuse({"phases": parts}, name)
    phases = tuple((float(until), float(value)) for until, value in pairs)
    ends = [until for until, _ in phases]
    if ends[0] <= 0 or any(late <= early for early, late in itertools.pairwise(ends)) or not math.isclose(ends[-1], 1.0):
        raise RecipeError(
            f"the phases of {name} end at {ends}",
            "shares of training that rise from above 0 to 1",
            "end the last phase at 1.0, for example [[0.5, 1.0], [1.0, 0.2]]",
        )
    return phases


def _refuse(value: Any, name: str) -> RecipeError:
    return RecipeError(f"{name} is {value!r}", _ACCEPTED, "for example {linear: [1.0, 0.1]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_two_numbers(value: Any) -> bool:
    return _is_list(value) and len(value) == 2 and all(map(_is_number, value))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _clamp(progress: float) -> float:
    return min(1.0, max(0.0, progress))
