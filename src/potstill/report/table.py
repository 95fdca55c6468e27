"""The table that the command line prints when a run is done."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from potstill.report import headline, numbers
from potstill.report.metrics import Metrics
from potstill.report.names import in_order


def summary_table(metrics: Metrics) -> Table:
    """Teacher, baseline, student and its quantized form: quality kept, size, and the time of one row in every runtime.

    Args:
        metrics: The figures of the run.

    Returns:
        A rich table; "faster" counts against the teacher in PyTorch fp32 where that was measured.
    """
    table = Table(box=SIMPLE_HEAD, caption=_caption(metrics), caption_justify="left", pad_edge=False)
    table.add_column("model")
    for name in (metrics.metric, "kept", "parameters", "on disk"):
        table.add_column(name, justify="right")
    table.add_column("p50, batch 1")
    table.add_column("faster", justify="right")
    for name in in_order(metrics.models):
        model = metrics.models[name]
        runtimes = [
            f"{runtime} {numbers.milliseconds(sizes['1'].p50)}" for runtime, sizes in model.latency_ms.items() if "1" in sizes
        ]
        table.add_row(
            name,
            headline.shown_quality(metrics, name),
            "" if name == "teacher" else numbers.percent(headline.retention_of(metrics, name)),
            numbers.count(model.parameters),
            numbers.size(model.bytes),
            "\n".join(runtimes) or numbers.NONE,
            _factors(metrics, name),
            style="bold" if name == headline.served_name(metrics) else None,
        )
    return table


def _factors(metrics: Metrics, name: str) -> str:
    """One factor per runtime of the model, in the order of its runtimes."""
    teacher = headline.reference(metrics.models["teacher"]) if "teacher" in metrics.models else None
    factors = []
    for sizes in metrics.models[name].latency_ms.values():
        if "1" in sizes:
            median = sizes["1"].p50
            factors.append(numbers.times(teacher[1] / median) if teacher and median else numbers.NONE)
    return "\n".join(factors)


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
    return "\n".join([", ".join(parts[:2]), ", ".join(parts[2:])]).strip()
