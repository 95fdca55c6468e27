"""A small SVG canvas: axes, ticks, texts in both languages. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from potstill.report.numbers import significant
from potstill.report.words import Said, same

STYLED_MODELS = ("teacher", "baseline", "student", "student-int8")
NUM_OTHER_STYLES = 4
WIDTH = 440  # of a plot: on a phone it is drawn at three quarters of that
BOLD = 1.12  # a bold text is this much wider
FONT_SIZE = 13  # the largest that the style sheet uses
LEGEND_ROW = 19


def style_of(model: str, models: Sequence[str]) -> str:
    """Style class of a model: its own for the usual four, else the next free one."""
    if model in STYLED_MODELS:
        return f"m-{model}"
    others = [name for name in models if name not in STYLED_MODELS]
    return f"m-other{others.index(model) % NUM_OTHER_STYLES if model in others else 0}"


def text_width(text: str) -> float:
    """Rough width of a text in pixels; Chinese characters are twice as wide."""
    return sum(FONT_SIZE if ord(char) > 0x2E80 else FONT_SIZE * 0.56 for char in text)


def shorten(text: str, width: float) -> str:
    """`text`, cut with an ellipsis where it is wider than `width` pixels."""
    if text_width(text) <= width:
        return text
    while text and text_width(text + "…") > width:
        text = text[:-1]
    return text + "…"


@dataclass(frozen=True)
class Axis:
    """Maps values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Pixel of a value."""
        low, high, here = self.low, self.high, value
        if self.log:
            low, high, here = math.log(low), math.log(high), math.log(max(value, 1e-12))
        share = (here - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside the axis, `most` or a few more of them."""
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)


def padded(values: Sequence[float], share: float = 0.12, *, least: float = 1e-6) -> tuple[float, float]:
    """Low and high of the values with room around them."""
    low, high = min(values), max(values)
    room = max((high - low) * share, least)
    return low - room, high + room


def padded_log(values: Sequence[float], factor: float = 1.7) -> tuple[float, float]:
    """Low and high of positive values with room around them on a logarithmic axis."""
    return min(values) / factor, max(values) * factor


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    span = high - low
    if span <= 0:
        return [low]
    raw = span / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(ticks) <= most + 1:
            break
    return ticks if len(ticks) > 1 else _linear_ticks(low, high, most)


class Canvas:
    """Collects shapes and makes one `<svg>` of them."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line."""
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>')

    def bar(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        style: str,
        *,
        opacity: float = 1,
        hint: str = "",
        round_by: int = 2,
    ) -> None:
        """A filled rectangle; `hint` is shown under the pointer."""
        shade = "" if opacity == 1 else f' fill-opacity="{opacity:.3f}"'
        place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" rx="{round_by}"'
        shape = f'<rect {place} class="{style}"{shade}'
        self._parts.append(f"{shape}><title>{escape(hint)}</title></rect>" if hint else f"{shape}/>")

    def dot(self, x: float, y: float, style: str, *, radius: float = 5, hint: str = "") -> None:
        """A filled circle."""
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="{style}"><title>{escape(hint)}</title></circle>'
        )

    def path(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line through the points."""
        if points:
            way = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            self._parts.append(f'<path d="M{way}" class="line {style}"/>')

    def text(self, x: float, y: float, text: Said | str, *, anchor: str = "start", style: str = "", turn: bool = False) -> None:
        """A text, in both languages where they differ."""
        said = text if isinstance(text, Said) else same(text)
        turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
        kinds = [(said.en, "")] if said.en == said.zh else [(said.en, "en "), (said.zh, "zh ")]
        for words, language in kinds:
            self._parts.append(
                f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned} class="{language}{style}">{escape(words)}</text>'
            )

    def finish(self, title: Said) -> Markup:
        """The whole figure with its caption."""
        return Markup(
            '<figure><figcaption>{}</figcaption><div class="plot"><svg viewBox="0 0 {} {}" style="max-width:{}px" role="img" '
            'aria-label="{}">{}</svg></div></figure>'
        ).format(title, round(self.width), round(self.height), round(self.width * 1.2), title.en, Markup("".join(self._parts)))


def legend(canvas: Canvas, entries: Sequence[tuple[str, Said]], *, left: float = 8) -> float:
    """Names of series above a plot, as many in a row as have room; returns the height that they take.

    Args:
        entries: Style of a series, or nothing for a remark, and its name.
    """
    x, row = left, 0
    for style, name in entries:
        width = max(text_width(name.en), text_width(name.zh)) * BOLD + 34
        if x > left and x + width > canvas.width:
            x, row = left, row + 1
        top = LEGEND_ROW * row
        if style == "limit":
            canvas.line(x + 7, top + 2, x + 7, top + 15, style)
        elif style:
            canvas.bar(x, top + 6, 14, 5, style)
        canvas.text(x + 20 if style else x, top + 13, name, style="label" if style else "faint")
        x += width
    return LEGEND_ROW * (row + 1)


def draw_axes(canvas: Canvas, x: Axis, y: Axis, x_title: Said, y_title: Said) -> None:
    """Grid, ticks and titles of a plot with two numeric axes; `y` runs upwards (start below end)."""
    for tick in y.ticks():
        canvas.line(x.start, y.at(tick), x.end, y.at(tick), "grid")
        canvas.text(x.start - 8, y.at(tick) + 4, tick_text(tick), anchor="end", style="tick")
    for tick in x.ticks():
        canvas.line(x.at(tick), y.start, x.at(tick), y.start + 4, "axis")
        canvas.text(x.at(tick), y.start + 18, tick_text(tick), anchor="middle", style="tick")
    canvas.line(x.start, y.start, x.end, y.start, "axis")
    canvas.text((x.start + x.end) / 2, y.start + 38, x_title, anchor="middle", style="axis-title")
    canvas.text(14, (y.start + y.end) / 2, y_title, anchor="middle", style="axis-title", turn=True)


def tick_text(value: float) -> str:
    """A tick's number without needless zeros."""
    text = significant(value, 4)
    return text.rstrip("0").rstrip(".") if "." in text else text
