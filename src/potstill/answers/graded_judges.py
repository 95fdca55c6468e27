"""Judges of answers that are no single class: sets of labels, numbers, embeddings.

Shapes: N rows, C labels, K numbers, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from potstill.answers.calibration import Reliability, reliability_of
from potstill.answers.closeness import embedding_closeness, label_closeness, number_closeness, probabilities
from potstill.answers.fidelity import Interval
from potstill.answers.graded_quality import ranks
from potstill.answers.judges import Closeness, Worst, bootstrap, furthest
from potstill.contracts.answers import known_rows
from potstill.evaluate.quality import Predictions
from potstill.tasks.pair_scores import cosines, pair_cosines

_DECIMALS = 3


class LabelsJudge:
    """Sets of labels: each label of each row is one decision."""

    def closeness(self, student: Predictions, teacher: Predictions) -> Closeness:
        """Share of equal decisions; the same weighted by the teacher's probability of the truth; mean KL over decisions."""
        found = label_closeness(student.logits, teacher.logits)
        return Closeness(found["agreement"], _weighted_agreement(student, teacher), found["teacher_kl"])

    def calibration(self, found: Predictions) -> Reliability | None:
        """Of decisions: how often the likelier of yes and no is right."""
        known = known_rows(found.labels)
        chance = probabilities(found.logits[known]).ravel()
        right = (chance > 0.5) == (found.labels[known].ravel() > 0.5)
        return reliability_of(np.maximum(chance, 1 - chance), right)

    def intervals(self, answers: Mapping[str, Predictions], metric: str) -> dict[str, Interval]:
        """Of micro F1."""
        return bootstrap(answers, metric, _hits, _micro_f1) if metric == "micro_f1" else {}

    def worst(self, student: Predictions, teacher: Predictions, names: Sequence[str], count: int) -> list[Worst]:
        """By how much less probability the student gives to the true decisions, mean over labels."""
        known = np.flatnonzero(known_rows(student.labels))
        true = student.labels[known] > 0.5
        own, other = (probabilities(one.logits[known]) for one in (student, teacher))
        ours, theirs = (np.where(true, chance, 1 - chance).mean(1) for chance in (own, other))
        return [
            Worst(
                int(student.row_ids[known][at]),
                _listed(true[at], names),
                _listed(other[at] > 0.5, names),
                _listed(own[at] > 0.5, names),
                float(theirs[at]),
                float(ours[at]),
            )
            for at in furthest(theirs - ours, count)
        ]


class NumbersJudge:
    """Predicted numbers."""

    def closeness(self, student: Predictions, teacher: Predictions) -> Closeness:
        """Pearson correlation with the teacher's numbers and root mean squared difference, in the data's units."""
        return Closeness(others=number_closeness(student.logits, teacher.logits))

    def calibration(self, found: Predictions) -> Reliability | None:
        """None: numbers come without a confidence."""
        return None

    def intervals(self, answers: Mapping[str, Predictions], metric: str) -> dict[str, Interval]:
        """Of concordance."""
        return bootstrap(answers, metric, _moments, _mean_concordance) if metric == "concordance" else {}

    def worst(self, student: Predictions, teacher: Predictions, names: Sequence[str], count: int) -> list[Worst]:
        """By how much further the student is from the truth, in standard deviations of the labels, summed over numbers."""
        known = np.flatnonzero(known_rows(student.labels))
        labels = student.labels[known].astype(np.float64)
        unit = np.where(labels.std(0) > 0, labels.std(0), 1.0)
        own, other = (np.abs(one.logits[known] - labels) / unit for one in (student, teacher))
        behind = (own - other).sum(1)
        return [
            Worst(
                int(student.row_ids[known][at]),
                _shown(labels[at]),
                _shown(teacher.logits[known][at]),
                _shown(student.logits[known][at]),
            )
            for at in furthest(behind, count)
        ]


class EmbeddingJudge:
    """Embeddings: directions, compared with the teacher's row by row, and by what they say of pairs that have a score."""

    def closeness(self, student: Predictions, teacher: Predictions) -> Closeness:
        """Mean cosine to the teacher's embedding, and how often both find the same nearest row."""
        return Closeness(others=embedding_closeness(student.logits, teacher.logits))

    def calibration(self, found: Predictions) -> Reliability | None:
        """None: embeddings come without a confidence."""
        return None

    def intervals(self, answers: Mapping[str, Predictions], metric: str) -> dict[str, Interval]:
        """Of the rank correlation with scores (ranks are taken once), or of the cosine to the teacher."""
        if metric == "spearman":
            return bootstrap(answers, metric, _pair_moments, _mean_correlation)
        target = answers["teacher"].logits
        return bootstrap(answers, metric, lambda one: cosines(one.logits, target)[:, None], lambda means: float(means[0]))

    def worst(self, student: Predictions, teacher: Predictions, names: Sequence[str], count: int) -> list[Worst]:
        """By the angle between the student's embedding and the teacher's."""
        near = cosines(student.logits, teacher.logits)
        return [
            Worst(int(student.row_ids[at]), "–", "", f"cosine {near[at]:.3f}", None, None) for at in furthest(1.0 - near, count)
        ]


def _weighted_agreement(student: Predictions, teacher: Predictions) -> float | None:
    known = known_rows(student.labels)
    if not known.any():
        return None
    true, chance = student.labels[known] > 0.5, probabilities(teacher.logits[known])
    weights = np.where(true, chance, 1 - chance)
    same = (student.logits[known] > 0) == (teacher.logits[known] > 0)
    return float((weights * same).sum() / weights.sum()) if weights.sum() > 0 else None


def _hits(found: Predictions) -> np.ndarray:
    """[N, 3] true positives, false positives and false negatives of each row."""
    known = known_rows(found.labels)
    answered, true = found.logits[known] > 0, found.labels[known] > 0.5
    counts = [(answered & true).sum(1), (answered & ~true).sum(1), (~answered & true).sum(1)]
    return np.stack(counts, axis=1).astype(np.float64)


def _micro_f1(means: np.ndarray) -> float:
    whole = 2 * means[0] + means[1] + means[2]
    return float(2 * means[0] / whole) if whole > 0 else 1.0


def _moments(found: Predictions) -> np.ndarray:
    """[N, 5 K] first and second moments of answers and labels, around the mean of the labels."""
    known = known_rows(found.labels)
    labels = found.labels[known].astype(np.float64)
    return _second_moments(found.logits[known] - labels.mean(0), labels - labels.mean(0))


def _pair_moments(found: Predictions) -> np.ndarray:
    both = (ranks(values)[:, None] for values in pair_cosines(found.logits, found.labels))
    return _second_moments(*(values - values.mean() for values in both))


def _second_moments(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.concatenate([first, second, first**2, second**2, first * second], axis=1)


def _mean_correlation(means: np.ndarray) -> float:
    first, second, first_square, second_square, product = means.reshape(5, -1)
    spread = np.sqrt(np.maximum(first_square - first**2, 0) * np.maximum(second_square - second**2, 0))
    return float(np.where(spread > 0, (product - first * second) / np.where(spread > 0, spread, 1.0), 0.0).mean())


def _mean_concordance(means: np.ndarray) -> float:
    first, second, first_square, second_square, product = means.reshape(5, -1)
    whole = first_square - first**2 + second_square - second**2 + (first - second) ** 2
    return float(np.where(whole > 0, 2 * (product - first * second) / np.where(whole > 0, whole, 1.0), 0.0).mean())


def _listed(chosen: np.ndarray, names: Sequence[str]) -> str:
    return ", ".join(names[int(index)] for index in np.flatnonzero(chosen)) or "none"


def _shown(values: np.ndarray) -> str:
    return ", ".join(f"{value:.{_DECIMALS}g}" for value in values)
