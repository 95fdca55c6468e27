"""How close answers are to the teacher's, for answers that are no single class.

Shapes: N rows, C labels, K numbers, D width of an embedding.
"""

from __future__ import annotations

import numpy as np

from potstill.answers.graded_quality import correlation
from potstill.tasks.pair_scores import cosines, unit_length

_NEIGHBOUR_ROWS = 2_000


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Probability of each label [N, C] float64."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def label_closeness(student_logits: np.ndarray, teacher_logits: np.ndarray) -> dict[str, float]:
    """``agreement``: share of labels decided alike; ``teacher_kl``: mean KL(teacher ‖ student) of a label's yes and no, nats.

    Args:
        student_logits: [N, C].
        teacher_logits: [N, C].
    """
    student, teacher = np.asarray(student_logits, np.float64), np.asarray(teacher_logits, np.float64)
    chance = probabilities(teacher)
    yes = _log_sigmoid(teacher) - _log_sigmoid(student)
    no = _log_sigmoid(-teacher) - _log_sigmoid(-student)
    return {
        "agreement": float(((student > 0) == (teacher > 0)).mean()),
        "teacher_kl": max(0.0, float((chance * yes + (1 - chance) * no).mean())),
    }


def number_closeness(student_values: np.ndarray, teacher_values: np.ndarray) -> dict[str, float]:
    """``teacher_pearson``: correlation with the teacher's numbers; ``teacher_rmse``: root mean squared difference.

    Args:
        student_values: [N, K].
        teacher_values: [N, K].
    """
    student, teacher = np.asarray(student_values, np.float64), np.asarray(teacher_values, np.float64)
    return {
        "teacher_pearson": float(np.mean([correlation(own, other) for own, other in zip(student.T, teacher.T)])),
        "teacher_rmse": float(np.sqrt(np.square(student - teacher).mean())),
    }


def embedding_closeness(student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """``teacher_cosine``: mean cosine to the teacher's embedding; ``same_neighbour``: share of rows with the same nearest row.

    Neighbours are looked for among the first 2,000 rows.

    Args:
        student: [N, D].
        teacher: [N, D].
    """
    found = {"teacher_cosine": float(cosines(student, teacher).mean())}
    if len(student) > 1:
        nearest = [_nearest(unit_length(side[:_NEIGHBOUR_ROWS])) for side in (student, teacher)]
        found["same_neighbour"] = float((nearest[0] == nearest[1]).mean())
    return found


def _nearest(rows: np.ndarray) -> np.ndarray:
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: np.ndarray = similarity.argmax(1)
    return nearest


def _log_sigmoid(values: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -values)
