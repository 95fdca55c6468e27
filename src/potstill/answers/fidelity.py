"""Shares of the teacher's quality that a student keeps, bootstrap intervals, and confidence against accuracy.

Shapes: N rows or decisions, C classes, R resamples, K values or bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from potstill.errors import DataError
from potstill.ground.counted import counted


@dataclass(frozen=True)
class Interval:
    """The figure on all rows, and the range that holds a share `confidence` of its resamples."""

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


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in bins of equal width over (0, 1].

    Args:
        edges: [K + 1] bin edges.
        counts: [K] rows per bin.
        confidence: [K] mean probability of the named class; NaN in empty bins.
        accuracy: [K] share of rows named rightly; NaN in empty bins.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Σ counts / N · |accuracy − confidence|."""
        filled = self.counts > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((self.counts[filled] * gaps).sum() / self.counts.sum())


def reliability_of(sure: np.ndarray, right: np.ndarray, *, num_bins: int = 15) -> Reliability:
    """Bin decisions by their probability.

    Args:
        sure: [N] probability of what was decided.
        right: [N] whether it was right.
        num_bins: Bins of equal width; a decision on an edge belongs to the bin below.

    Raises:
        DataError: No decision, or there are fewer than one bin.
    """
    if not len(sure) or num_bins < 1:
        raise DataError(f"{counted(len(sure), 'labelled row')} and {counted(num_bins, 'bin')} were given", "at least one of each")
    sure, right = np.minimum(sure, 1.0), np.asarray(right, np.float64)
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, weights=sure, minlength=num_bins) / counts
        accuracy = np.bincount(bins, weights=right, minlength=num_bins) / counts
    return Reliability(edges, counts, confidence, accuracy)
