"""The budget that a student is planned for: one of four, told as the share of the teacher to remove."""

from __future__ import annotations

from collections.abc import Mapping

from potstill.errors import RecipeError

MAX_RATIO = 0.97
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
    whole: int, *, ratio: float | None, params: int | None, bytes: int | None, latency_ms: float | None
) -> float | None:
    """The ratio that a budget means for a teacher of `whole` parameters; None for a latency.

    Raises:
        RecipeError: Not exactly one budget, or one that is out of range.
    """
    name, value = only_budget({"ratio": ratio, "params": params, "bytes": bytes, "latency_ms": latency_ms})
    if latency_ms is not None:
        return None
    budget = params if params is not None else (bytes or 0) // BYTES_PER_PARAMETER
    asked = ratio if ratio is not None else 1 - budget / whole
    if not 0 <= asked <= MAX_RATIO:
        raise RecipeError(
            f"{name}={value} means a ratio of {asked:.3f} for a teacher of {whole} parameters",
            f"0 (same architecture) to {MAX_RATIO}",
            f"ask for ratio 0.10 to 0.95, or params {round(whole * (1 - MAX_RATIO))} to {whole}",
        )
    return float(asked)
