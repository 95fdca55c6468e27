"""TensorBoard scalars, quality and attention maps of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from potstill.errors import MissingExtra
from potstill.report.metrics import AttentionDifference, Metrics

PIXELS_PER_TOKEN = 8


def write_tensorboard(metrics: Metrics, folder: str | Path) -> Path:
    """Write what the trainer logged, the figures of every model, and attention maps.

    Args:
        folder: Receives the event file, usually ``report/tensorboard``.

    Raises:
        MissingExtra: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        raise MissingExtra("writing TensorBoard files", "track") from err
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        _history(writer, metrics)
        _models(writer, metrics)
        _attention(writer, metrics)
    return folder


def _history(writer: Any, metrics: Metrics) -> None:
    for stage, points in metrics.history.items():
        for point in points:
            for name, value in point.values.items():
                if value is not None:
                    writer.add_scalar(f"{stage}/{name}", value, point.step)


def _models(writer: Any, metrics: Metrics) -> None:
    run = {"retention": metrics.retention, "gap_closed": metrics.gap_closed, "agreement": metrics.agreement, "wdsr": metrics.wdsr}
    for name, value in run.items():
        if value is not None:
            writer.add_scalar(f"run/{name}", value)
    for name, model in metrics.models.items():
        figures = {**model.quality, "parameters": model.parameters, "bytes": model.bytes, "ece": model.ece}
        for runtime, sizes in model.latency_ms.items():
            figures |= {f"p50_ms/{runtime}/batch {batch}": latency.p50 for batch, latency in sizes.items()}
        for figure, value in figures.items():
            if value is not None:
                writer.add_scalar(f"models/{name}/{figure}", value)


def _attention(writer: Any, metrics: Metrics) -> None:
    for pair in metrics.layers.attention if metrics.layers else []:
        if pair.jsd is not None:
            writer.add_scalar("attention/jsd_nats", pair.jsd, pair.student_layer)
        if pair.teacher_map and pair.student_map:
            name = f"attention/teacher {pair.teacher_layer}, student {pair.student_layer}, difference"
            writer.add_image(name, attention_image(pair), dataformats="HW")


def attention_image(pair: AttentionDifference) -> np.ndarray:
    """Teacher's map, student's map and their absolute difference side by side: [H, W] from 0 to 1, one scale for all three."""
    teacher, student = (np.nan_to_num(np.array(grid, dtype=np.float32)) for grid in (pair.teacher_map, pair.student_map))
    highest = max(float(teacher.max()), float(student.max()), 1e-9)
    gap = np.zeros((len(teacher), 1), dtype=np.float32)
    panels = np.concatenate([teacher, gap, student, gap, np.abs(teacher - student)], axis=1) / highest
    return panels.repeat(PIXELS_PER_TOKEN, axis=0).repeat(PIXELS_PER_TOKEN, axis=1)
