"""Plots with two numeric axes: training curves, the calibration curve, quality against size and latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from potstill.report.names import plain, readable
from potstill.report.numbers import SHARES
from potstill.report.plots.canvas import BOLD, WIDTH, Axis, Canvas, draw_axes, legend, padded, padded_log, style_of, text_width
from potstill.report.words import Said, model_name, say

HEIGHT, TALL, LEFT = 230, 290, 60
NUM_LINE_STYLES = 10

Box = tuple[float, float, float, float]
Points = Sequence[tuple[float, float]]


def training_curve(
    lines: Mapping[str, Points],
    title: Said,
    y_title: Said,
    *,
    scale: float = 1.0,
    colours: Mapping[str, str] | None = None,
    kept: int | None = None,
) -> Markup:
    """Values over optimizer steps.

    Args:
        lines: Name to (step, value) points; at least one point in all.
        scale: Factor on the values (100 for shares shown in percent).
        colours: Plain name of a series to its style, the same in every plot of a page; None for those of this plot.
        kept: Step whose weights were kept, which is marked.
    """
    scaled = {name: [(step, value * scale) for step, value in points] for name, points in lines.items() if points}
    steps = [step for points in scaled.values() for step, _ in points]
    values = [value for points in scaled.values() for _, value in points]
    styles = _styles(list(scaled), series_styles(scaled) if colours is None else colours)
    last = max([*steps, 1])
    entries = [(style, readable(name)) for name, style in styles.items() if "dashed" not in style]
    entries += [("limit", say("kept_step", step=f"{kept:,}"))] if kept is not None and kept <= last else []
    entries += [("", say("dashed"))] if any("dashed" in style for style in styles.values()) else []
    canvas = Canvas(WIDTH, HEIGHT)
    top = legend(canvas, entries)
    canvas.height += top
    x = Axis(0, last, LEFT, WIDTH - 14)
    y = Axis(*_range(values, least=1e-3 if scale == 1 else 0.01 * scale), canvas.height - 48, top + 8)
    draw_axes(canvas, x, y, say("axis_step"), y_title)
    if kept is not None and kept <= last:
        canvas.line(x.at(kept), y.start, x.at(kept), y.end, "limit")
    for name, points in scaled.items():
        _draw(canvas, points, x, y, styles[name])
    return canvas.finish(title)


def calibration_curve(lines: Mapping[str, Points], styles: Mapping[str, str], names: Mapping[str, Said], title: Said) -> Markup:
    """Share that is right over confidence, in percent, with the diagonal of a perfect model.

    Args:
        lines: Model to (confidence, accuracy) of its bins that are not empty.
    """
    canvas = Canvas(WIDTH, TALL)
    top = legend(canvas, [*((styles[name], names[name]) for name in lines), ("limit", say("perfect"))])
    canvas.height += top
    low = 100 * min([0.9, *(value for points in lines.values() for point in points for value in point)])
    x = Axis(low, 100, LEFT, WIDTH - 18)
    y = Axis(low, 100, canvas.height - 48, top + 8)
    draw_axes(canvas, x, y, _in_percent("axis_confidence"), _in_percent("axis_accuracy"))
    canvas.line(x.at(low), y.at(low), x.at(100), y.at(100), "limit")
    for name, points in lines.items():
        _draw(canvas, [(100 * confidence, 100 * right) for confidence, right in points], x, y, styles[name], dots=True)
    return canvas.finish(title)


def _in_percent(key: str) -> Said:
    words = say(key)
    return Said(words.en + ", %", words.zh + "，%")


def _range(values: Sequence[float], least: float) -> tuple[float, float]:
    """From zero where the values come near it, else with room around them, `least` or more."""
    low, high = padded(values, 0.08, least=least)
    near_zero = 0 <= min(values) <= 0.5 * max(values)
    return (0.0, high) if near_zero else (low, high)


def _draw(canvas: Canvas, points: Points, x: Axis, y: Axis, style: str, *, dots: bool = False) -> None:
    canvas.path([(x.at(at), y.at(value)) for at, value in points], style)
    if dots or len(points) <= 12:
        for at, value in points:
            canvas.dot(x.at(at), y.at(value), style, radius=3, hint=f"{at:.4g}: {value:.4g}")


def series_styles(names: Iterable[str]) -> dict[str, str]:
    """A colour for each series by its plain name, in the order in which they appear."""
    plain_names = dict.fromkeys(plain(name) for name in names)
    return {name: f"l{number % NUM_LINE_STYLES}" for number, name in enumerate(plain_names)}


def _styles(names: Sequence[str], colours: Mapping[str, str]) -> dict[str, str]:
    """The style of each line; the validation of a training loss has its colour, dashed."""
    trained = {plain(name) for name in names if not name.startswith("eval_")}
    return {
        name: colours[plain(name)] + (" dashed" if name.startswith("eval_") and plain(name) in trained else "") for name in names
    }


def tradeoff(
    points: Mapping[str, tuple[float, float]], metric: str, x_title: Said, title: Said, hints: Mapping[str, str]
) -> Markup:
    """A scatter plot with a logarithmic cost axis.

    Args:
        points: Model to (cost, quality); costs are positive.
    """
    canvas = Canvas(WIDTH, TALL)
    scale = 100 if metric in SHARES else 1
    values = {name: (cost, quality * scale) for name, (cost, quality) in points.items()}
    x = Axis(*padded_log([cost for cost, _ in values.values()]), LEFT, WIDTH - 16, log=True)
    low, high = padded([quality for _, quality in values.values()], 0.25, least=0.01 * scale)
    y = Axis(max(low, 0.0) if min(quality for _, quality in values.values()) >= 0 else low, high, TALL - 48, 14)
    draw_axes(canvas, x, y, x_title, _of_metric(metric, scale))
    canvas.text(x.start + 8, y.end + 12, Said("↖ " + say("better_corner").en, "↖ " + say("better_corner").zh), style="faint")
    places = {name: (x.at(cost), y.at(quality)) for name, (cost, quality) in values.items()}
    taken = [(left - 7, top - 7, left + 7, top + 7) for left, top in places.values()]
    for name, (left, top) in places.items():
        style = style_of(name, list(values))
        canvas.dot(left, top, style, radius=7, hint=hints.get(name, name))
        _label(canvas, left, top, model_name(name), taken)
    return canvas.finish(title)


def _of_metric(metric: str, scale: float) -> Said:
    name = readable(metric)
    return Said(name.en + ", %", name.zh + "，%") if scale == 100 else name


def _label(canvas: Canvas, x: float, y: float, name: Said, taken: list[Box]) -> None:
    """Name a point on the first side that is free: right, left, below, above, then further below and above."""
    width = max(text_width(name.en), text_width(name.zh)) * BOLD
    choices = [(x + 11, y + 4), (x - 11 - width, y + 4)]
    choices += [(x - width / 2, y + offset) for offset in (22, -13, 38, -29, 54, -45)]
    free = [
        choice for choice in choices if _is_free((choice[0], choice[1] - 11, choice[0] + width, choice[1] + 3), canvas, taken)
    ]
    left, baseline = (free or choices)[0]
    taken.append((left, baseline - 11, left + width, baseline + 3))
    canvas.text(left, baseline, name, style="label")


def _is_free(box: Box, canvas: Canvas, taken: list[Box]) -> bool:
    inside = box[0] >= LEFT and box[2] <= canvas.width and box[1] >= 0
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
    )
