"""Quality against size and against latency: one point per model, with its name."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from potstill.report.numbers import SHARES
from potstill.report.plots.canvas import Axis, Canvas, draw_axes, padded, padded_log, style_of, text_width
from potstill.report.words import Said, model_name, same, say

WIDTH, HEIGHT = 520, 320
BOLD = 1.15
Box = tuple[float, float, float, float]


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
    places = {name: (x.at(cost), y.at(quality)) for name, (cost, quality) in values.items()}
    taken = [(left - 7, top - 7, left + 7, top + 7) for left, top in places.values()]
    for name, (left, top) in places.items():
        style = style_of(name, list(values))
        canvas.dot(left, top, style, radius=7, hint=hints.get(name, name))
        _label(canvas, left, top, model_name(name), taken)
    return canvas.finish(title)


def _label(canvas: Canvas, x: float, y: float, name: Said, taken: list[Box]) -> None:
    """Name a point on the first side that is free: right, left, below, above, then further below and above."""
    width = text_width(name.en) * BOLD
    choices = [(x + 11, y + 4), (x - 11 - width, y + 4)]
    choices += [(x - width / 2, y + offset) for offset in (22, -13, 38, -29, 54, -45)]
    free = [
        choice for choice in choices if _is_free((choice[0], choice[1] - 11, choice[0] + width, choice[1] + 3), canvas, taken)
    ]
    left, baseline = (free or choices)[0]
    taken.append((left, baseline - 11, left + width, baseline + 3))
    canvas.text(left, baseline, name, style="label")


def _is_free(box: Box, canvas: Canvas, taken: list[Box]) -> bool:
    inside = box[0] >= 60 and box[2] <= canvas.width and box[1] >= 0
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
    )
