"""How good answers are that are no single class: sets of labels, and numbers."""

# N rows, C labels, K numbers

from __future__ import annotations

from typing import Any

import numpy as np

from potstill.contracts.answers import known_rows
from potstill.errors import ModelError


def label_set_quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures of sets of labels, each label decided at a probability of one half (a logit above 0).

    Micro F1 is 2 TP / (2 TP + FP + FN) over all rows and labels; macro F1 the plain mean of the F1 of every label that occurs
    among labels or answers; subset accuracy the share of rows with every label right.

    Args:
        logits: Answers [N, C].
        labels: 0 and 1 [N, C]; rows of −100 are left out.

    Raises:
        ModelError: Logits that are not finite, or no row with labels.

    Example:
        >>> label_set_quality(np.array([[2.0, -1.0], [1.0, 3.0]]), np.array([[1, 0], [0, 1]]))["micro_f1"]
        0.8
    """
    answered, true = _decisions(logits, labels)
    counts = label_counts(answered, true)
    hit, extra, missed = counts.sum(0)
    occurs = counts.sum(1) > 0
    f1 = 2 * counts[:, 0] / np.maximum(2 * counts[:, 0] + counts[:, 1] + counts[:, 2], 1)
    return {
        "micro_f1": float(2 * hit / (2 * hit + extra + missed)) if hit + extra + missed else 1.0,
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else 1.0,
        "subset_accuracy": float((answered == true).all(1).mean()),
    }


def per_label(logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """For each label, in order: ``label``, ``support``, ``precision``, ``recall`` and ``f1``; None where no row bears on it."""
    answered, true = _decisions(logits, labels)
    found = []
    for index, (hit, extra, missed) in enumerate(label_counts(answered, true).tolist()):
        found.append(
            {
                "label": index,
                "support": hit + missed,
                "precision": hit / (hit + extra) if hit + extra else None,
                "recall": hit / (hit + missed) if hit + missed else None,
                "f1": 2 * hit / (2 * hit + extra + missed) if hit + extra + missed else None,
            }
        )
    return found


def label_counts(answered: np.ndarray, true: np.ndarray) -> np.ndarray:
    """[C, 3] true positives, false positives, false negatives of each label, from booleans [N, C]."""
    return np.stack([(answered & true).sum(0), (answered & ~true).sum(0), (~answered & true).sum(0)], axis=1)


def number_quality(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures of predicted numbers; with several numbers a row, correlations and R² are means over them.

    Concordance (see `concordance`), Pearson and Spearman correlation (0 where a side never changes),
    R² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)², mean squared and mean absolute error in the units of the labels.

    Args:
        values: Answers [N, K].
        labels: [N, K]; rows of NaN are left out.

    Raises:
        ModelError: Answers that are not finite, or no row with labels.
    """
    values, labels = _known(values, labels)
    values, labels = values.astype(np.float64), labels.astype(np.float64)
    spread = np.square(labels - labels.mean(0)).sum(0)
    errors = np.square(values - labels).sum(0)
    r2 = [1 - error / whole if whole > 0 else 0.0 for error, whole in zip(errors, spread)]
    return {
        "concordance": float(np.mean([concordance(own, true) for own, true in zip(values.T, labels.T)])),
        "pearson": float(np.mean([correlation(own, true) for own, true in zip(values.T, labels.T)])),
        "spearman": float(np.mean([correlation(ranks(own), ranks(true)) for own, true in zip(values.T, labels.T)])),
        "r2": float(np.mean(r2)),
        "mse": float(np.square(values - labels).mean()),
        "mae": float(np.abs(values - labels).mean()),
    }


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


def _decisions(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = _known(logits, labels)
    return logits > 0, labels > 0.5


def _known(answers: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    answers, labels = np.asarray(answers), np.asarray(labels)
    labels = labels.reshape(len(labels), -1)
    known = known_rows(labels)
    if not known.any():
        raise ModelError("no row has a label, so quality cannot be measured", "rows with labels", "evaluate on a labelled split")
    if labels.shape != answers.shape:
        raise ModelError(
            f"the model gives {answers.shape[1:]} answers a row and the rows have {labels.shape[1:]} labels",
            "as many on both sides",
            "take the model that was trained on these labels",
        )
    broken = np.flatnonzero(~np.isfinite(answers[known]).all(axis=1))
    if len(broken):
        raise ModelError(
            f"{len(broken)} of {int(known.sum())} rows have answers that are not finite",
            "finite answers",
            "run the model in float32, or lower the learning rate it was trained with",
        )
    return answers[known], labels[known]
