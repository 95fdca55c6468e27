"""Plots with two numeric axes: training curves, the calibration curve, quality against size and latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from potstill.report.names import plain, readable
from potstill.report.numbers import SHARES
from potstill.report.plots.canvas import Axis, Canvas, draw_axes, padded, padded_log, style_of, text_width
from potstill.report.words import Said, model_name, say

WIDTH, HEIGHT, TALL = 520, 290, 320
BOLD = 1.15
NUM_LINE_STYLES = 6

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
    canvas = Canvas(WIDTH, HEIGHT)
    styles = _styles(list(scaled), series_styles(scaled) if colours is None else colours)
    rows = _legend(canvas, styles)
    x = Axis(0, max([*steps, 1]), 62, WIDTH - 18)
    y = Axis(*_range(values, least=1e-3 if scale == 1 else 0.01 * scale), HEIGHT - 48, 12 + 18 * rows)
    draw_axes(canvas, x, y, say("axis_step"), y_title)
    if kept is not None and x.low <= kept <= x.high:
        canvas.line(x.at(kept), y.start, x.at(kept), y.end, "limit")
        shift, anchor = (-6, "end") if kept > 0.7 * x.high else (6, "start")
        canvas.text(x.at(kept) + shift, y.start - 6, say("kept_step"), anchor=anchor, style="faint")
    for name, points in scaled.items():
        _draw(canvas, points, x, y, styles[name])
    return canvas.finish(title)


def calibration_curve(lines: Mapping[str, Points], styles: Mapping[str, str], names: Mapping[str, Said], title: Said) -> Markup:
    """Share that is right over confidence, in percent, with the diagonal of a perfect model.

    Args:
        lines: Model to (confidence, accuracy) of its bins that are not empty.
    """
    canvas = Canvas(WIDTH, 330)
    low = 100 * min([0.9, *(value for points in lines.values() for point in points for value in point)])
    x = Axis(low, 100, 62, WIDTH - 18)
    y = Axis(low, 100, 330 - 48, 12)
    draw_axes(canvas, x, y, _in_percent("axis_confidence"), _in_percent("axis_accuracy"))
    canvas.line(x.at(low), y.at(low), x.at(100), y.at(100), "limit")
    for at, (name, points) in enumerate(lines.items()):
        _draw(canvas, [(100 * confidence, 100 * right) for confidence, right in points], x, y, styles[name], dots=True)
        canvas.bar(x.start + 12, 20 + 18 * at, 12, 10, styles[name])
        canvas.text(x.start + 30, 29 + 18 * at, names[name], style="label")
    canvas.text(x.start + 12, 29 + 18 * len(lines), Said("┄ " + say("perfect").en, "┄ " + say("perfect").zh), style="faint")
    return canvas.finish(title)


def _in_percent(key: str) -> Said:
    words = say(key)
    return Said(words.en + ", %", words.zh + "，%")


def _range(values: Sequence[float], least: float) -> tuple[float, float]:
    """From zero where the values come near it, else with room around them, `least` or more."""
    low, high = padded(values, 0.08, least=least)
    near_zero = min(values) >= 0 and min(values) < 0.5 * max(values)
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


def _legend(canvas: Canvas, styles: Mapping[str, str]) -> int:
    """Names of the lines above the plot; returns how many rows they take."""
    x, row = 62.0, 0
    entries: list[tuple[str, Said]] = [(style, readable(name)) for name, style in styles.items() if "dashed" not in style]
    if len(entries) < len(styles):
        entries.append(("", say("dashed")))
    for style, name in entries:
        width = max(text_width(name.en), text_width(name.zh)) * 1.1 + 36
        if x > 62 and x + width > WIDTH:
            x, row = 62.0, row + 1
        if style:
            canvas.bar(x, 6 + 18 * row, 14, 4, style)
        canvas.text(x + 20 if style else x, 13 + 18 * row, name, style="label" if style else "faint")
        x += width
    return row + 1


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
    x = Axis(*padded_log([cost for cost, _ in values.values()]), 62, WIDTH - 16, log=True)
    y = Axis(*padded([quality for _, quality in values.values()], 0.25, least=0.01 * scale), TALL - 48, 14)
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
