"""The budget that a student is planned for: one of four, read as the share of the teacher to remove."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig

from potstill.errors import RecipeError

if TYPE_CHECKING:
    from potstill.students.plan import StudentPlan

LATENCY_STEPS = 12
BYTES_PER_PARAMETER = 4


def only_budget(given: Mapping[str, float | None]) -> tuple[str, float]:
    """The one budget that is given, with its name.

    Raises:
        RecipeError: None is given, or several are.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise RecipeError(
            f"{len(named)} budgets are given ({', '.join(named) or 'none'})",
            "exactly one of ratio, params, bytes, latency_ms",
            "keep the one that binds",
        )
    return next(iter(named.items()))


def asked_ratio(
    whole: int, given: Mapping[str, float | None], *, least: float, top: float, accepted: str, todo: str, digits: int = 3
) -> float | None:
    """The ratio that a budget means for a teacher of `whole` parameters; None for a latency.

    Args:
        whole: The teacher's parameters.
        given: Values by the name of the budget.
        least: The smallest ratio that is accepted.
        top: The largest.
        accepted: Which ratios are accepted, in the words of an error.
        todo: What to do where it is none of them.
        digits: Digits of the ratio in an error.

    Raises:
        RecipeError: Not exactly one budget, or one that is out of range.
    """
    name, value = only_budget(given)
    if name == "latency_ms":
        return None
    budget = value // BYTES_PER_PARAMETER if name == "bytes" else value
    asked = float(value if name == "ratio" else 1 - budget / whole)
    if not least <= asked <= top:
        raise RecipeError(
            f"{name}={value} means a ratio of {asked:.{digits}f} for a teacher of {whole} parameters", accepted, todo
        )
    return asked


def largest_within_latency(
    planned: Callable[[float], StudentPlan],
    latency_ms: float,
    latency_of: Callable[[PreTrainedConfig], float] | None,
    *,
    top: float,
    too_small: tuple[str, str, str],
) -> StudentPlan:
    """The plan of the smallest ratio whose latency is at most `latency_ms`, by bisection.

    Args:
        planned: Ratio → plan.
        latency_ms: On the target.
        latency_of: Configuration → milliseconds.
        top: The largest ratio.
        too_small: The error where none is fast enough: what was asked, what is accepted, what to do.

    Raises:
        RecipeError: No student is fast enough, or there is no `latency_of`.
    """
    if latency_of is None:
        raise RecipeError(
            f"latency_ms={latency_ms} is given without a way to measure the latency of an architecture",
            "latency_of: a function from a configuration to milliseconds",
            "pass latency_of=, or ask for ratio=, params= or bytes=",
        )
    low, high, best = 0.0, top, None
    for _ in range(LATENCY_STEPS):
        middle = (low + high) / 2
        candidate = planned(middle)
        if latency_of(candidate.build_config()) <= latency_ms:
            best, high = candidate, middle
        else:
            low = middle
    if best is None:
        raise RecipeError(*too_small)
    return best
