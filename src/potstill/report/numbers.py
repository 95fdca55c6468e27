"""Numbers as a person reads them: three significant digits, units said."""

from __future__ import annotations

import math

SHARES = frozenset(
    {
        "accuracy",
        "subset_accuracy",
        "macro_f1",
        "micro_f1",
        "weighted_f1",
        "f1",
        "precision",
        "recall",
        "exact_match",
        "top5_accuracy",
    }
)
NONE = "–"


def significant(value: float | None, digits: int = 3) -> str:
    """`value` with that many significant digits, whole from there on; below 1 without zeros at the end."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, max(0, places)):,.{max(0, places)}f}"
    return text.rstrip("0") if abs(value) < 1 else text


def percent(share: float | None, places: int = 1) -> str:
    """A share of 0 to 1 as percent."""
    return NONE if share is None else f"{100 * share:.{places}f} %".replace("-", "−")


def quality(name: str, value: float | None) -> str:
    """A task metric, `name` or ``task/name``: percent where it is a share, else three decimals."""
    if value is None or name.rpartition("/")[2] in SHARES:
        return percent(value)
    return f"{value:.3f}"


def signed(name: str, value: float) -> str:
    """A difference of a task metric with its sign: in points of per cent where the metric is a share, else three decimals.

    Example:
        >>> signed("accuracy", -0.0123), signed("concordance", 0.0123)
        ('−1.2', '+0.012')
    """
    is_share = name.rpartition("/")[2] in SHARES
    return (f"{100 * value:+.1f}" if is_share else f"{value:+.3f}").replace("-", "−")


def count(value: float | None) -> str:
    """A count with K, M, G or T."""
    return _scaled(value, 1000, ("", " K", " M", " G", " T", " P"))


def size(num_bytes: float | None) -> str:
    """Bytes with decimal units."""
    return _scaled(num_bytes, 1000, (" B", " kB", " MB", " GB", " TB"))


def milliseconds(value: float | None) -> str:
    """Milliseconds with their unit."""
    return NONE if value is None else f"{significant(value)} ms"


def seconds(value: float | None) -> str:
    """Seconds, or minutes and hours from two minutes on."""
    if value is None:
        return NONE
    if value < 120:
        return f"{significant(value)} s" if value < 100 else f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"


def times(factor: float | None) -> str:
    """A factor: 9.7×."""
    return NONE if factor is None else f"{significant(factor)}×"


def _scaled(value: float | None, step: int, units: tuple[str, ...]) -> str:
    if value is None:
        return NONE
    scaled, at = float(value), 0
    while abs(scaled) >= step and at < len(units) - 1:
        scaled, at = scaled / step, at + 1
    return f"{scaled:.0f}{units[at]}" if at == 0 else f"{significant(scaled)}{units[at]}"
