"""Embeddings: a vector of length one for a text; rows need no labels, pairs of texts may have a score to be measured by.

Shapes: N rows, P pairs, B batch, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch.nn.functional as F
from datasets import Dataset, Features
from torch import Tensor

from potstill.answers.base import label_columns, unknown
from potstill.answers.correlations import correlation, correlation_of, ranks, second_moments
from potstill.answers.judging import Closeness, KeptRows, Worst, furthest, known_rows
from potstill.answers.label_columns import NUMBER_NAMES, find_numbers
from potstill.answers.numbers import Numbers, number_map, read_numbers
from potstill.contracts.answers import Answers, Judge, Mapped, Predictions
from potstill.data.columns import checked_roles
from potstill.errors import ModelError

if TYPE_CHECKING:
    from potstill.contracts.modality import Modality

_NEIGHBOUR_ROWS = 2_000


class Embedding(Numbers):
    """A direction close to the teacher's.

    Labels are scores of pairs of texts [N, 1] float32, NaN where there are none. A pair is encoded as two rows, one after the
    other, both with its score.
    """

    kind = reported = "embedding"
    noun = "embeddings"
    metric = "teacher_cosine"
    problem_type: str | None = None
    has_label_names = False
    is_optional = True

    def __init__(self) -> None:
        self.from_labels = None
        self.from_teacher = ({"name": "output_cosine", "weight": 0.8}, {"name": "similarity_kl", "weight": 0.2})

    def scaled(self, labels: np.ndarray | None) -> Answers:
        """Itself: directions have no units."""
        return self

    def metric_for(self, labels: np.ndarray) -> str:
        """Rank correlation with the scores of pairs where there are any, else the mean cosine to the teacher."""
        return "spearman" if known_rows(labels).any() else self.metric

    def find_columns(
        self, dataset: Dataset, asked: Mapping[str, Any] | None, modality: Modality, *, labelled: bool = True
    ) -> dict[str, str]:
        """``text``; for pairs ``text_pair`` and, where there is one, ``label`` with the score of the pair."""
        if (asked or {}).get("label") is not None:
            return find_numbers(dataset, asked, modality, labelled=labelled)
        scores = [name for name in dataset.features if name.strip().lower() in NUMBER_NAMES]
        content = Features({name: feature for name, feature in dataset.features.items() if name not in scores})
        roles = modality.find_content(content, checked_roles(content, asked, (*modality.roles, "label")))
        is_scored = labelled and "text_pair" in roles and len(scores) == 1
        return {**roles, "label": scores[0]} if is_scored else roles

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
        """A number a row, or None for all where there is no score."""
        columns = label_columns(roles)
        return read_numbers(dataset, columns, split) if columns else [None] * len(dataset)

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """No names: an embedding has none."""
        return (), number_map(1)

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Mapping[str, str]) -> Mapped:
        """The score of each row."""
        return number_map(1)

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """NaN."""
        return super().missing(count, ("",))

    def spread(self, content: pa.Table, values: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """Both texts of each pair as rows of their own."""
        if "text_pair" not in content.column_names:
            return content, values
        both = [content["text"].to_pylist(), content["text_pair"].to_pylist()]
        texts = [text for pair in zip(*both) for text in pair]
        return pa.table({"text": pa.array(texts, pa.large_string())}), values.repeat(2, axis=0)

    def named(self, found: Predictions, content: pa.Table, rows: Dataset) -> pa.Table:
        """``prediction``, the vector; of pairs also ``prediction_pair`` and the ``similarity`` of both, their cosine."""
        if len(found.logits) == content.num_rows:
            return pa.table({"prediction": _vectors(found.logits)})
        first, second = found.logits[0::2], found.logits[1::2]
        near = pa.array(cosines(first, second), pa.float32())
        return pa.table({"prediction": _vectors(first), "prediction_pair": _vectors(second), "similarity": near})

    def start_head(self, head: Any, labels: np.ndarray) -> None:
        """Nothing to do: the head has no units."""

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """[B] 1 − cosine."""
        return 1 - F.cosine_similarity(teacher, student, dim=-1)

    def label_distance(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B] NaN: a score belongs to a pair."""
        return unknown(logits)

    def closeness(self, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
        """See `embedding_closeness`."""
        return embedding_closeness(student, teacher)

    def judge(self) -> Judge:
        """See `EmbeddingJudge`."""
        return EmbeddingJudge()

    def save_extras(self, model: Any, folder: Path) -> None:
        """The files of sentence-transformers, where the model can write them."""
        if hasattr(model, "save_extras"):
            model.save_extras(folder)


class EmbeddingJudge(KeptRows):
    """Compares directions with the teacher's row by row, and by what they say of pairs that have a score."""

    def quality(self) -> dict[str, float]:
        """Rank correlation of pairs' cosines with their scores, and the mean cosine to the teacher, where there is either."""
        found = {"spearman": pair_correlation(self["logits"], self["labels"])} if known_rows(self["labels"]).any() else {}
        return found | ({"teacher_cosine": float(self._cosines().mean())} if "teacher" in self else {})

    def closeness(self) -> Closeness:
        """Mean cosine to the teacher's embedding, and how often both find the same nearest row."""
        return Closeness(others=embedding_closeness(self["logits"], self["teacher"]))

    def worst(self, names: Sequence[str], count: int) -> list[Worst]:
        """By the angle between the student's embedding and the teacher's."""
        near = self._cosines()
        return [Worst(int(self["row_ids"][at]), "–", "", f"cosine {near[at]:.3f}") for at in furthest(1.0 - near, count)]

    def row_sums(self, metric: str) -> tuple[np.ndarray, Callable[[np.ndarray], float]]:
        """Of the rank correlation with scores (ranks are taken once), or of the cosine to the teacher."""
        if metric != "spearman":
            return self._cosines()[:, None], lambda means: float(means[0])
        both = (ranks(values)[:, None] for values in pair_cosines(self["logits"], self["labels"]))
        return second_moments(*(values - values.mean() for values in both)), correlation_of

    def _cosines(self) -> np.ndarray:
        return cosines(self["logits"], self["teacher"])


def _vectors(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel(), pa.float32()), rows.shape[1])


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


def embedding_closeness(student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """``teacher_cosine``, mean cosine to the teacher's embedding; ``same_neighbour``, share of rows with the same nearest row.

    Neighbours are looked for among the first 2,000 rows.
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
