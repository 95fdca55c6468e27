"""Quality against size and against latency: one point per model, named beside it."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from potstill.report.names import model_name
from potstill.report.numbers import SHARES
from potstill.report.plots.canvas import Axis, Canvas, draw_axes, padded, padded_log, style_of, text_width
from potstill.report.words import Said, same, say

WIDTH, HEIGHT = 520, 320


def tradeoff(
    points: Mapping[str, tuple[float, float]], metric: str, x_title: Said, title: Said, hints: Mapping[str, str]
) -> Markup:
    """A scatter plot with a logarithmic cost axis.

    Args:
        points: Model to (cost, quality); costs are positive.
        metric: Name of the quality.
        x_title: Name and unit of the cost.
        title: Caption.
        hints: Model to the text shown under the pointer.
    """
    canvas = Canvas(WIDTH, HEIGHT)
    scale = 100 if metric in SHARES else 1
    values = {name: (cost, quality * scale) for name, (cost, quality) in points.items()}
    x = Axis(*padded_log([cost for cost, _ in values.values()]), 62, WIDTH - 16, log=True)
    y = Axis(*padded([quality for _, quality in values.values()], 0.25, least=0.01 * scale), HEIGHT - 48, 14)
    draw_axes(canvas, x, y, x_title, same(metric + (", %" if scale == 100 else "")))
    canvas.text(x.start + 8, y.end + 12, Said("↖ " + say("better_corner").en, "↖ " + say("better_corner").zh), style="faint")
    taken: list[tuple[float, float, float]] = []
    for name, (cost, quality) in values.items():
        style = style_of(name, list(values))
        canvas.dot(x.at(cost), y.at(quality), style, radius=7, hint=hints.get(name, name))
        _label(canvas, x.at(cost), y.at(quality), model_name(name), style, taken)
    return canvas.finish(title)


def _label(canvas: Canvas, x: float, y: float, name: Said, style: str, taken: list[tuple[float, float, float]]) -> None:
    """Name a point on the side that has room, moved up or down where another name is."""
    width = text_width(name.en) + 14
    to_left = x + width > canvas.width
    left = x - width if to_left else x
    at = y + 4
    while any(
        abs(at - other_y) < 15 and left < other_right and left + width > other_left for other_left, other_right, other_y in taken
    ):
        at += 15 if at < canvas.height - 80 else -15
        if len(taken) > 12:
            break
    taken.append((left, left + width, at))
    canvas.text(x - 11 if to_left else x + 11, at, name, anchor="end" if to_left else "start", style=f"label t-{style}")
