"""Shares of the teacher's quality that a student keeps, and bootstrap intervals.

Shapes: N rows, C classes, R resamples, K values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A figure and the range in which it lies with the stated confidence.

    Args:
        value: The figure on all rows.
        low: Lower end.
        high: Upper end.
        confidence: Share of resamples within.
    """

    value: float
    low: float
    high: float
    confidence: float


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities [N, C] in float64."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def retention(student: float, teacher: float) -> float | None:
    """Student's metric ÷ teacher's metric; None where the teacher's is 0 or less (a correlation): of that nothing can be kept."""
    return student / teacher if teacher > 0 else None


def gap_closed(student: float, baseline: float, teacher: float) -> float | None:
    """(student − baseline) ÷ (teacher − baseline); None where the baseline is as good as the teacher: there is no gap."""
    return None if teacher <= baseline else (student - baseline) / (teacher - baseline)


def interval_of(value: float, draws: np.ndarray, confidence: float) -> Interval:
    """The range that holds the middle share `confidence` of the draws [R]."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high), confidence)


def resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means [R, K] of values [N, K] over resampled rows."""
    generator, num_rows = np.random.default_rng(seed), len(values)
    means = np.empty((resamples, values.shape[1]))
    for draw in range(resamples):
        counts = np.bincount(generator.integers(num_rows, size=num_rows), minlength=num_rows)
        means[draw] = counts @ values / num_rows
    return means
