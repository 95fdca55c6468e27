"""Stage `report`: the page, the TensorBoard files and the model card, from the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.errors import MissingExtra
from potstill.report.metrics import Metrics


@dataclass(frozen=True)
class ReportOptions:
    """What writing the report reads of a run; none of it decides the figures.

    Args:
        output: The output folder; receives the model card.
    """

    output: Path = field(compare=False)
    about_run: Callable[[], Mapping[str, Any]] = field(compare=False)


def write_report(given: Given, options: ReportOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Write the page, the TensorBoard files and the model card."""
    metrics = Metrics.read(given.measurements / "metrics.json")
    return render_report(options.output, folder, metrics.model_copy(update=dict(options.about_run())))


def render_report(output: Path, folder: Path, metrics: Metrics) -> list[str]:
    """Write everything that shows the figures.

    Args:
        output: The output folder; receives the model card.
    """
    from potstill.report.card import write_card
    from potstill.report.page import render
    from potstill.report.tensorboard import write_tensorboard

    render(metrics, folder)
    write_card(metrics, output)
    try:
        write_tensorboard(metrics, folder / "tensorboard")
    except MissingExtra as missing:
        return [str(missing)]
    return []
