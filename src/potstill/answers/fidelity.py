"""How much of the teacher the student keeps.

Shapes: N rows, C classes. Rows with label −100 count where no label is needed and are left out elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from potstill.errors import DataError

IGNORED_LABEL = -100


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


def agreement(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Share of rows on which both name the same class.

    Args:
        student_logits: [N, C].
        teacher_logits: [N, C].

    Raises:
        DataError: Different shapes or no rows.
    """
    _check_pair(student_logits, teacher_logits)
    return float((student_logits.argmax(-1) == teacher_logits.argmax(-1)).mean())


def mean_kl(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Mean over rows of KL(teacher ‖ student) = Σ p_teacher · (log p_teacher − log p_student), in nats.

    Args:
        student_logits: [N, C].
        teacher_logits: [N, C].

    Raises:
        DataError: Different shapes or no rows.
    """
    _check_pair(student_logits, teacher_logits)
    teacher, student = log_softmax(teacher_logits), log_softmax(student_logits)
    return max(0.0, float((np.exp(teacher) * (teacher - student)).sum(-1).mean()))


def wdsr(student_logits: np.ndarray, teacher_logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Weighted distillation success rate: agreement, each row weighted by the teacher's belief in the true label.

    Formula: Σ p_teacher(label) · [argmax student = argmax teacher] / Σ p_teacher(label).

    Args:
        student_logits: [N, C].
        teacher_logits: [N, C].
        labels: [N]; rows with −100 are left out.

    Returns:
        A share; None where no row has a label.

    Raises:
        DataError: Different shapes, no rows, or a label outside the classes.
    """
    _check_pair(student_logits, teacher_logits)
    known = _labelled(teacher_logits, labels)
    if not known.any():
        return None
    student, teacher = student_logits[known], teacher_logits[known]
    weights = np.exp(log_softmax(teacher))[np.arange(len(teacher)), np.asarray(labels)[known]]
    same = student.argmax(-1) == teacher.argmax(-1)
    return float((weights * same).sum() / weights.sum()) if weights.sum() > 0 else None


def retention(student: float, teacher: float) -> float | None:
    """Student's metric ÷ teacher's metric; None where the teacher's is 0 or less (a correlation): of that nothing can be kept."""
    return student / teacher if teacher > 0 else None


def gap_closed(student: float, baseline: float, teacher: float) -> float | None:
    """(student − baseline) ÷ (teacher − baseline); None where the baseline is as good as the teacher: there is no gap."""
    return None if teacher <= baseline else (student - baseline) / (teacher - baseline)


def accuracy_interval(
    logits: np.ndarray, labels: np.ndarray, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Accuracy with its bootstrap interval over rows.

    Args:
        logits: [N, C].
        labels: [N]; rows with −100 are left out.
        confidence: Share of resamples within the interval.
        resamples: How often rows are drawn anew.
        seed: Of the draws.

    Raises:
        DataError: No row has a label.
    """
    correct = _correct(logits, labels)[:, None]
    means = resampled_means(correct, resamples, seed)[:, 0]
    return interval_of(float(correct.mean()), means, confidence)


def retention_interval(
    student_logits: np.ndarray,
    teacher_logits: np.ndarray,
    labels: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval | None:
    """Retention of accuracy with its bootstrap interval; both models are resampled on the same rows.

    Args:
        student_logits: [N, C].
        teacher_logits: [N, C].
        labels: [N]; rows with −100 are left out.
        confidence: Share of resamples within the interval.
        resamples: How often rows are drawn anew.
        seed: Of the draws.

    Returns:
        None where the teacher is never right.

    Raises:
        DataError: Different shapes or no row has a label.
    """
    _check_pair(student_logits, teacher_logits)
    correct = np.stack([_correct(student_logits, labels), _correct(teacher_logits, labels)], axis=1)
    value = retention(float(correct[:, 0].mean()), float(correct[:, 1].mean()))
    if value is None:
        return None
    means = resampled_means(correct, resamples, seed)
    ratios = means[:, 0] / np.where(means[:, 1] > 0, means[:, 1], np.nan)
    return interval_of(value, ratios[np.isfinite(ratios)], confidence)


def interval_of(value: float, draws: np.ndarray, confidence: float) -> Interval:
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


def _correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    known = _labelled(logits, labels)
    if not known.any():
        raise DataError("no row has a label", "labelled rows", "give a test split with labels")
    return (logits[known].argmax(-1) == np.asarray(labels)[known]).astype(np.float64)


def _labelled(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != logits.shape[:1]:
        raise DataError(f"{labels.shape[0] if labels.ndim else 0} labels were given for {len(logits)} rows", "one label per row")
    known = labels != IGNORED_LABEL
    if known.any() and (labels[known].min() < 0 or labels[known].max() >= logits.shape[-1]):
        raise DataError(
            f"labels go from {labels[known].min()} to {labels[known].max()}", f"0 to {logits.shape[-1] - 1}, or {IGNORED_LABEL}"
        )
    return known


def _check_pair(student_logits: np.ndarray, teacher_logits: np.ndarray) -> None:
    if student_logits.shape != teacher_logits.shape or len(student_logits) == 0:
        raise DataError(
            f"student logits {list(student_logits.shape)} and teacher logits {list(teacher_logits.shape)} cannot be compared",
            "the same rows and classes, at least one row",
        )
