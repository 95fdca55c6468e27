"""Horizontal bars: latency per runtime, throughput, wall time per stage, difference of attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from potstill.report.plots.canvas import BOLD, WIDTH, Canvas, shorten, text_width
from potstill.report.words import Said

ROW, TOP = 27, 8
LONGEST_NAME = 236


@dataclass(frozen=True)
class Bar:
    """One bar.

    Args:
        mark: Where a tick is drawn (a high percentile), if any.
    """

    name: Said
    value: float
    shown: str
    style: str
    mark: float | None = None
    hint: str = ""


def bars(rows: Sequence[Bar], title: Said, *, limit: float | None = None, limit_name: Said | None = None) -> Markup:
    """Bars from zero, one below the other."""
    foot = 18 if limit is not None else 0
    canvas = Canvas(WIDTH, TOP + ROW * len(rows) + 4 + foot)
    left = min(LONGEST_NAME, max(text_width(name) for row in rows for name in row.name)) + 12
    right = WIDTH - BOLD * max(text_width(row.shown) for row in rows) - 12
    highest = max([row.value for row in rows] + [row.mark or 0 for row in rows] + [limit or 0]) or 1
    for at, row in enumerate(rows):
        _draw(canvas, row, TOP + at * ROW, left, (right - left) / highest)
    if limit is not None:
        x = left + limit * (right - left) / highest
        canvas.line(x, TOP - 4, x, TOP + ROW * len(rows), "limit")
        if limit_name is not None:
            canvas.text(x, TOP + ROW * len(rows) + 16, limit_name, anchor="end" if x > WIDTH / 2 else "start", style="tick")
    return canvas.finish(title)


def _draw(canvas: Canvas, row: Bar, top: float, left: float, per_unit: float) -> None:
    name = Said(shorten(row.name.en, LONGEST_NAME), shorten(row.name.zh, LONGEST_NAME))
    length = row.value * per_unit
    canvas.text(left - 8, top + 14, name, anchor="end", style="name")
    canvas.bar(left, top + 2, max(length, 1.5), ROW - 11, row.style, hint=row.hint)
    end = left + length
    if row.mark is not None:
        end = max(end, left + row.mark * per_unit)
        canvas.line(left + length, top + 10, end, top + 10, "whisker")
        canvas.line(end, top + 5, end, top + 15, "whisker")
    canvas.text(end + 7, top + 14, row.shown, style="value")
