"""Plots of a run: metrics in, figures out; nothing where there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from potstill.report.metrics import ATTENTION_WARNING, HistoryPoint, Metrics
from potstill.report.names import measure_of, phase_name, readable
from potstill.report.numbers import SHARES, milliseconds, quality, seconds, significant, size
from potstill.report.plots.bars import Bar, bars
from potstill.report.plots.canvas import style_of
from potstill.report.plots.classes import recall_per_class
from potstill.report.plots.curves import calibration_curve, series_styles, tradeoff, training_curve
from potstill.report.plots.maps import attention_maps, similarity_map
from potstill.report.speedup import fastest
from potstill.report.words import Said, in_order, model_name, same, say

MOST_MAPS = 2
FEWEST_IN_BIN = 8
Lines = dict[str, list[tuple[float, float]]]
_TECHNICAL = ("weight", "temperature", "_seconds", "selection")
_CORRELATIONS = {"concordance", "pearson", "spearman", "teacher_cosine", "teacher_pearson"}
_VALIDATION_SHARES = SHARES | _CORRELATIONS | {"agreement", "same_neighbour"}


def tradeoff_charts(metrics: Metrics) -> list[Markup]:
    """Quality against size and against latency, each where two models or more have both."""
    sizes: dict[str, tuple[float, float]] = {}
    speeds: dict[str, tuple[float, float]] = {}
    hints: dict[str, str] = {}
    for name in in_order(metrics.models):
        model, value = metrics.models[name], metrics.models[name].quality.get(metrics.metric)
        best = fastest(model)
        if value is None:
            continue
        hints[name] = (
            f"{name}: {quality(metrics.metric, value)}, {size(model.bytes)}, {milliseconds(best.p50_ms if best else None)}"
        )
        if model.bytes:
            sizes[name] = (model.bytes / 1e6, value)
        if best:
            speeds[name] = (best.p50_ms, value)
    charts = []
    if len(sizes) > 1:
        charts.append(
            tradeoff(sizes, metrics.metric, say("axis_size"), say("chart_size", metric=readable(metrics.metric)), hints)
        )
    if len(speeds) > 1:
        charts.append(
            tradeoff(speeds, metrics.metric, say("axis_latency"), say("chart_latency", metric=readable(metrics.metric)), hints)
        )
    return charts


def batches(metrics: Metrics) -> list[str]:
    """Batch sizes at which anything was measured, smallest first."""
    found = {batch for model in metrics.models.values() for sizes in model.latency_ms.values() for batch in sizes}
    return sorted(found, key=lambda batch: (int(batch) if batch.isdigit() else 0, batch))


def speed_charts(metrics: Metrics) -> list[Markup]:
    """One chart of medians per batch size."""
    charts = []
    for batch in batches(metrics):
        rows = _latency_rows(metrics, batch)
        if rows:
            charts.append(bars(rows, say("chart_batch", batch=batch)))
    return charts


def _latency_rows(metrics: Metrics, batch: str) -> list[Bar]:
    rows = []
    names = in_order(metrics.models)
    for name in names:
        for runtime, sizes in metrics.models[name].latency_ms.items():
            measured = sizes.get(batch)
            if measured is None or measured.p50 is None:
                continue
            words = model_name(name)
            label = Said(f"{words.en} · {runtime}", f"{words.zh} · {runtime}")
            percentiles = ", ".join(significant(value) for value in (measured.p50, measured.p95, measured.p99))
            hint = f"{name} {runtime}: p50, p95, p99 {percentiles} ms"
            rows.append(Bar(label, measured.p50, significant(measured.p50), style_of(name, names), measured.p95, hint))
    return rows


def training_charts(metrics: Metrics) -> list[Markup]:
    """Losses and validation quality of every stage that logged any."""
    losses = {stage: _lines(points, _is_loss) for stage, points in metrics.history.items()}
    checks = {stage: _lines(points, _is_share) for stage, points in metrics.history.items()}
    colours = series_styles(name for group in (losses, checks) for lines in group.values() for name in lines)
    charts = []
    for stage in metrics.history:
        kept = metrics.kept_steps.get(stage)
        if losses[stage]:
            title = say("chart_loss", stage=phase_name(stage))
            charts.append(training_curve(losses[stage], title, say("axis_loss"), colours=colours, kept=kept))
        if checks[stage]:
            title = say("chart_quality", stage=phase_name(stage))
            charts.append(training_curve(checks[stage], title, same("%"), scale=100.0, colours=colours, kept=kept))
    return charts


def _is_share(name: str) -> bool:
    return measure_of(name) in _VALIDATION_SHARES


def _is_loss(name: str) -> bool:
    return ("loss" in name or name.endswith("_kl")) and not _is_share(name)


def _lines(points: list[HistoryPoint], wanted: Callable[[str], bool]) -> Lines:
    """Name → (step, value), without technical figures, single points, and lines that repeat another."""
    lines: Lines = {}
    for point in points:
        for name, value in point.values.items():
            if (
                value is not None
                and wanted(name)
                and not name.startswith("train_")
                and not any(word in name for word in _TECHNICAL)
            ):
                lines.setdefault(name, []).append((point.step, value))
    found: Lines = {}
    for name, line in lines.items():
        if line not in found.values() and (len(line) > 1 or len(points) == 1):
            found[name] = line
    return found


def class_chart(metrics: Metrics) -> Markup | None:
    """Recall per class."""
    return recall_per_class(metrics.per_class) if any(result.recall for result in metrics.per_class) else None


def calibration_chart(metrics: Metrics) -> Markup | None:
    """Confidence against share that is right; bins of very few rows are noise and left out."""
    lines = {}
    for name in in_order(metrics.calibration):
        points = [
            (part.confidence, part.accuracy)
            for part in metrics.calibration[name]
            if part.confidence is not None and part.accuracy is not None and (part.rows or 0) >= FEWEST_IN_BIN
        ]
        if points:
            lines[name] = points
    styles = {name: style_of(name, list(lines)) for name in lines}
    title = say("chart_calibration", rows=FEWEST_IN_BIN)
    return calibration_curve(lines, styles, {name: model_name(name) for name in lines}, title) if lines else None


def similarity_chart(metrics: Metrics) -> Markup | None:
    """CKA between layers."""
    return similarity_map(metrics.layers) if metrics.layers and metrics.layers.cka and metrics.layers.cka[0] else None


def attention_charts(metrics: Metrics) -> list[Markup]:
    """Difference per mapped pair, and the maps of the pairs that differ most."""
    pairs = [pair for pair in metrics.layers.attention if pair.jsd is not None] if metrics.layers else []
    if not pairs:
        return []
    rows = [
        Bar(
            say("pair", teacher=pair.teacher_layer, student=pair.student_layer),
            pair.jsd or 0.0,
            f"{pair.jsd:.3f}",
            "m-baseline" if (pair.jsd or 0) > ATTENTION_WARNING else "m-student",
        )
        for pair in pairs
    ]
    words, unit = say("chart_attention"), say("axis_nats")
    title = Said(f"{words.en} ({unit.en})", f"{words.zh}（{unit.zh}）")
    charts = [bars(rows, title, limit=ATTENTION_WARNING, limit_name=say("limit", limit=ATTENTION_WARNING))]
    drawn = sorted((pair for pair in pairs if pair.teacher_map and pair.student_map), key=lambda pair: -(pair.jsd or 0))
    return charts + [attention_maps(pair) for pair in drawn[:MOST_MAPS]]


def stage_chart(metrics: Metrics) -> Markup | None:
    """Wall time of every stage."""
    rows = [
        Bar(phase_name(stage), value, seconds(value), "m-teacher") for stage, value in metrics.stages.items() if value is not None
    ]
    return bars(rows, say("chart_stages")) if rows else None
