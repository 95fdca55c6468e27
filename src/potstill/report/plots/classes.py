"""Recall per class: a dot per model, the gap between them drawn."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from potstill.report.metrics import ClassResult
from potstill.report.numbers import percent
from potstill.report.plots.canvas import WIDTH, Axis, Canvas, legend, shorten, style_of, text_width, tick_text
from potstill.report.words import in_order, model_name, say

ROW = 22
MOST_CLASSES = 30


def recall_per_class(results: Sequence[ClassResult]) -> Markup:
    """Dots of recall, one row per class; of many classes, those where the student loses most."""
    shown = sorted(results, key=_loss, reverse=True)[:MOST_CLASSES]
    models = in_order({name: None for result in shown for name in result.recall})
    left = min(170, max(text_width(_name(result)) for result in shown)) + 14
    lowest = min([value for result in shown for value in result.recall.values() if value is not None] or [0.0])
    x = Axis(100 * max(0.0, lowest - 0.05), 100, left, WIDTH - 14)
    canvas = Canvas(WIDTH, 0)
    top = 12 + legend(canvas, [(style_of(name, models), model_name(name)) for name in models])
    bottom = top + ROW * len(shown)
    canvas.height = bottom + 44
    for tick in x.ticks():
        canvas.line(x.at(tick), top - 6, x.at(tick), bottom, "grid")
        canvas.text(x.at(tick), bottom + 16, tick_text(tick), anchor="middle", style="tick")
    canvas.text((x.start + x.end) / 2, bottom + 36, say("axis_recall"), anchor="middle", style="axis-title")
    for at, result in enumerate(shown):
        _draw(canvas, result, models, x, top + ROW * at + ROW / 2)
    few = len(shown) < len(results)
    return canvas.finish(say("chart_classes_some", shown=len(shown), total=len(results)) if few else say("chart_classes"))


def _draw(canvas: Canvas, result: ClassResult, models: Sequence[str], x: Axis, y: float) -> None:
    known = {name: result.recall[name] for name in models if result.recall.get(name) is not None}
    canvas.text(x.start - 10, y + 4, shorten(_name(result), 170), anchor="end", style="name")
    if not known:
        return
    ends = [x.at(100 * value) for value in known.values() if value is not None]
    canvas.line(min(ends), y, max(ends), y, "whisker")
    for at, name in enumerate(known):  # smaller and smaller, so that equal ones show as rings
        value = known[name] or 0.0
        radius = max(7.5 - 1.6 * at, 2.5)
        canvas.dot(x.at(100 * value), y, style_of(name, models), radius=radius, hint=f"{result.label}: {name} {percent(value)}")


def _name(result: ClassResult) -> str:
    return f"{result.label} ({result.rows})" if result.rows is not None else result.label


def _loss(result: ClassResult) -> float:
    teacher, student = result.recall.get("teacher"), result.recall.get("student")
    return teacher - student if teacher is not None and student is not None else 0.0
