"""Pairs of texts as rows: embeddings of both, one after the other, against the score of the pair.

Shapes: N rows, P pairs, D width of an embedding.
"""

from __future__ import annotations

import numpy as np

from potstill.answers.graded_quality import correlation, ranks
from potstill.contracts.answers import known_rows
from potstill.errors import ModelError


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Rows [N, D] float64 of length one; a row of zeros stays."""
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[N] cosine of each row of `first` [N, D] with the same row of `second`."""
    result: np.ndarray = (unit_length(first) * unit_length(second)).sum(1)
    return result


def pair_cosines(embeddings: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[P] cosine of each scored pair, and [P] its score.

    Args:
        embeddings: [N, D], both texts of a pair one after the other.
        scores: [N, 1], the pair's score in both rows, NaN where there is none.

    Raises:
        ModelError: Rows with a score that are no pairs.
    """
    known = known_rows(scores)
    rows, values = np.asarray(embeddings)[known], np.asarray(scores, np.float64)[known].ravel()
    if len(rows) % 2 or not np.array_equal(values[0::2], values[1::2]):
        raise ModelError("rows with a score are not in pairs", "both texts of a pair one after the other", "encode them again")
    return cosines(rows[0::2], rows[1::2]), values[0::2]


def pair_correlation(embeddings: np.ndarray, scores: np.ndarray) -> float:
    """Spearman correlation between the cosines of pairs and their scores; arguments as for `pair_cosines`."""
    similarity, values = pair_cosines(embeddings, scores)
    return correlation(ranks(similarity), ranks(values))
