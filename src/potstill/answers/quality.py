"""How good answers are: accuracy, macro F1, Matthews correlation, and the same for each class."""

# N rows, C classes

from __future__ import annotations

from typing import Any

import numpy as np

from potstill.errors import ModelError


def classification_quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures of classification, each from the confusion matrix.

    Accuracy is the share of right answers; macro F1 the plain mean of the F1 of every class that occurs among labels or
    answers; ``mcc`` the Matthews correlation for any number of classes, 0 where it is undefined.

    Source: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", equation 8.

    Args:
        logits: Answers [N, C].
        labels: Right classes [N]; negative ones are left out.

    Raises:
        ModelError: Logits that are not finite, or no row with a label.

    Example:
        >>> classification_quality(np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([0, 1]))["accuracy"]
        1.0
    """
    matrix = confusion(logits, labels)
    total = matrix.sum()
    true, answered = matrix.sum(1), matrix.sum(0)
    right = np.trace(matrix)
    spread = np.sqrt(float(total**2 - (true**2).sum())) * np.sqrt(float(total**2 - (answered**2).sum()))
    f1 = _f1(matrix)[(true + answered) > 0]
    return {
        "accuracy": float(right / total),
        "macro_f1": float(f1.mean()),
        "mcc": float((total * right - (true * answered).sum()) / spread) if spread else 0.0,
    }


def per_class(logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """For each class, in order: ``label``, ``support`` (rows of it), ``precision``, ``recall`` and ``f1``.

    A measure that no row bears on is None; arguments and errors as in `classification_quality`.
    """
    matrix = confusion(logits, labels)
    true, answered, right = matrix.sum(1), matrix.sum(0), np.diag(matrix)
    f1 = _f1(matrix)
    return [
        {
            "label": i,
            "support": int(true[i]),
            "precision": float(right[i] / answered[i]) if answered[i] else None,
            "recall": float(right[i] / true[i]) if true[i] else None,
            "f1": float(f1[i]) if true[i] + answered[i] else None,
        }
        for i in range(len(matrix))
    ]


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts [C, C] int64: right class down, answered class across; rows with negative labels are left out."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    known = labels >= 0
    if not known.any():
        raise ModelError("no row has a label, so quality cannot be measured", "rows with labels", "evaluate on a labelled split")
    broken = np.flatnonzero(~np.isfinite(logits[known]).all(axis=1))
    if len(broken):
        raise ModelError(
            f"{len(broken)} of {int(known.sum())} rows have logits that are not finite "
            f"(the first is row {np.flatnonzero(known)[broken[0]]})",
            "finite logits",
            "run the model in float32, or lower the learning rate it was trained with",
        )
    classes = logits.shape[1]
    answers = logits[known].argmax(axis=1)
    return np.bincount(labels[known] * classes + answers, minlength=classes * classes).reshape(classes, classes)


def _f1(matrix: np.ndarray) -> np.ndarray:
    both = matrix.sum(0) + matrix.sum(1)
    return 2 * np.diag(matrix) / np.maximum(both, 1)
