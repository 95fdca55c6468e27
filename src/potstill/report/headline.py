"""Headline figures."""

from __future__ import annotations

from potstill.report.metrics import Metrics
from potstill.report.numbers import quality


def served_name(metrics: Metrics) -> str | None:
    """Which model is to be served: the one named, else student-int8, else student."""
    for name in (metrics.served, "student-int8", "student"):
        if name in metrics.models:
            return name
    return None


def times_smaller(metrics: Metrics, name: str) -> float | None:
    """The teacher's bytes divided by this model's; None where either is unknown."""
    teacher = metrics.models["teacher"].bytes if "teacher" in metrics.models else None
    model = metrics.models[name].bytes
    return teacher / model if teacher and model else None


def retention_of(metrics: Metrics, name: str) -> float | None:
    """This model's metric divided by the teacher's; None where either is unknown or the teacher's is 0."""
    model = metrics.models[name]
    if model.retention is not None or name == "teacher":
        return model.retention
    if name == "student" and metrics.retention is not None:
        return metrics.retention
    teacher, own = metric_of(metrics, "teacher"), metric_of(metrics, name)
    return own / teacher if own is not None and teacher else None


def metric_of(metrics: Metrics, name: str) -> float | None:
    """A model's value of the run's metric; None where there is no such model or value."""
    return metrics.models[name].quality.get(metrics.metric) if name in metrics.models else None


def shown_quality(metrics: Metrics, name: str) -> str:
    """A model's metric as a person reads it."""
    return quality(metrics.metric, metric_of(metrics, name))
