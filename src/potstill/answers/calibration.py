"""Expected calibration error and reliability curve.

Shapes: N decisions, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from potstill.errors import DataError


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
        raise DataError(f"{len(sure)} labelled rows and {num_bins} bins were given", "at least one of each")
    sure, right = np.minimum(sure, 1.0), np.asarray(right, np.float64)
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, weights=sure, minlength=num_bins) / counts
        accuracy = np.bincount(bins, weights=right, minlength=num_bins) / counts
    return Reliability(edges, counts, confidence, accuracy)
