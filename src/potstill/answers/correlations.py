"""Correlation, concordance and ranks, of whole lists and from means over rows.

Shapes: N rows, K numbers of a row.
"""

from __future__ import annotations

import numpy as np


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson correlation of two lists [N]; 0 where one of them never changes."""
    first, second = first - first.mean(), second - second.mean()
    whole = float(np.sqrt(np.square(first).sum() * np.square(second).sum()))
    return float((first * second).sum()) / whole if whole > 1e-300 else 0.0


def concordance(first: np.ndarray, second: np.ndarray) -> float:
    """Concordance correlation 2 cov / (var + var + (difference of means)²) of two lists [N]: 1 only where they are equal.

    Unlike the plain correlation it falls where answers are right in order but too close together or too high; 0 where neither
    changes.
    Source: Lin 1989, "A concordance correlation coefficient to evaluate reproducibility" (Biometrics 45), equation 2.
    """
    shift = float(first.mean() - second.mean())
    whole = float(first.var() + second.var()) + shift**2
    return 2 * float(((first - first.mean()) * (second - second.mean())).mean()) / whole if whole > 1e-300 else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 [N] float64; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: np.ndarray = (ends - (counts - 1) / 2)[inverse]
    return mean


def second_moments(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[N, 5 K] values, squares and products of two arrays [N, K], whose means give correlations."""
    return np.concatenate([first, second, first**2, second**2, first * second], axis=1)


def correlation_of(means: np.ndarray) -> float:
    """The correlation, mean over numbers, from the means [5 K] of `second_moments`."""
    first, second, first_square, second_square, product = means.reshape(5, -1)
    spread = np.sqrt(np.maximum(first_square - first**2, 0) * np.maximum(second_square - second**2, 0))
    return float(np.where(spread > 0, (product - first * second) / np.where(spread > 0, spread, 1.0), 0.0).mean())


def concordance_of(means: np.ndarray) -> float:
    """The concordance, mean over numbers, from the means [5 K] of `second_moments`."""
    first, second, first_square, second_square, product = means.reshape(5, -1)
    whole = first_square - first**2 + second_square - second**2 + (first - second) ** 2
    return float(np.where(whole > 0, 2 * (product - first * second) / np.where(whole > 0, whole, 1.0), 0.0).mean())
