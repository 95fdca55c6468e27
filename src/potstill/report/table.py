"""The table that the command line prints when a run is done."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from potstill.report import headline, numbers, speedup
from potstill.report.doubts import doubts
from potstill.report.loading import statement
from potstill.report.metrics import Metrics
from potstill.report.words import in_order

MODEL_WIDTH = 12  # of the first column: with it the table fits a terminal of 80 characters


def summary_table(metrics: Metrics) -> Table:
    """Teacher, baseline, student and its quantized form: quality kept, size, and the time of one row in every runtime.

    Returns:
        A rich table; times are medians at batch 1; "faster" counts against the teacher in PyTorch fp32 where that was measured.
    """
    table = Table(box=SIMPLE_HEAD, caption=_caption(metrics), caption_justify="left", padding=0)
    table.add_column("model", no_wrap=True)
    for name in (metrics.metric, "kept", "params", "on disk"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("runtime", no_wrap=True)
    for name in ("p50 ms", "faster"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in in_order(metrics.models):
        model = metrics.models[name]
        medians = {form: one.p50_ms for form, one in speedup.timed_forms(model).items()}
        table.add_row(
            name if len(name) <= MODEL_WIDTH else name.replace("-", "-\n", 1),
            headline.shown_quality(metrics, name),
            "" if name == "teacher" else numbers.percent(headline.retention_of(metrics, name)),
            numbers.count(model.parameters),
            numbers.size(model.bytes),
            "\n".join(medians),
            "\n".join(numbers.significant(median) for median in medians.values()),
            _factors(metrics, list(medians.values())),
            style="bold" if name == headline.served_name(metrics) else None,
        )
    return table


def _factors(metrics: Metrics, medians: Sequence[float]) -> str:
    """How many times faster than the teacher's reference each median is, one per line."""
    teacher = speedup.teacher_reference(metrics)
    return "\n".join(numbers.times(teacher.p50_ms / median if teacher else None) for median in medians)


def _caption(metrics: Metrics) -> str:
    parts = []
    if metrics.ratio.achieved is not None:
        asked = f" (asked {numbers.percent(metrics.ratio.asked)})" if metrics.ratio.asked is not None else ""
        parts.append(f"{numbers.percent(metrics.ratio.achieved)} of the parameters removed{asked}")
    if metrics.gap_closed is not None:
        parts.append(f"gap closed {numbers.percent(metrics.gap_closed, 0)}")
    if metrics.agreement is not None:
        parts.append(f"agreement {numbers.percent(metrics.agreement)}")
    if metrics.wdsr is not None:
        parts.append(f"WDSR {numbers.percent(metrics.wdsr)}")
    said, note = statement(metrics), speedup.speed_note(metrics, headline.served_name(metrics))
    lines = [one.en for one in (note, said) if one is not None]
    lines += [f"! {doubt.en}" for doubt in doubts(metrics)]
    return "\n".join([", ".join(parts[:2]), ", ".join(parts[2:]), *_of_tasks(metrics), *lines]).strip()


def _of_tasks(metrics: Metrics) -> list[str]:
    """Of several tasks, a line each: how well every model answers it."""
    lines = []
    for task in metrics.tasks:
        key = f"{task}/{metrics.metric}"
        models = in_order(metrics.models)
        figures = (f"{name} {numbers.quality(key, metrics.models[name].quality.get(key))}" for name in models)
        lines.append(f"{key}: {', '.join(figures)}")
    return lines
