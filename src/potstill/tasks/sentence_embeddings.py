"""Sentence embeddings: a vector for a text, close to the teacher's vector of the same text."""

# N rows, D width of an embedding

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features
from transformers import AutoConfig, PreTrainedModel

from potstill.answers.closeness import embedding_closeness
from potstill.answers.label_columns import NUMBER_NAMES, find_numbers
from potstill.contracts.answers import Answers, known_rows
from potstill.data.columns import find_text
from potstill.models.sentence_model import AutoSentenceEncoder, save_for_sentence_transformers
from potstill.tasks.loading import loading_error
from potstill.tasks.pair_scores import pair_correlation
from potstill.tasks.text_classification import TextClassification

EMBEDDINGS = Answers("embedding", None, ({"name": "output_cosine", "weight": 0.8}, {"name": "similarity_kl", "weight": 0.2}))


class SentenceEmbeddings(TextClassification):
    """A vector of length one for a text; rows need no labels, pairs of texts may have a score to be measured by."""

    name = "sentence-embeddings"
    metric = "teacher_cosine"
    label_kind = "scores"

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """Direction of the teacher's embedding, and its similarities between the rows of a batch."""
        return EMBEDDINGS

    def metric_for(self, labels: np.ndarray) -> str:
        """Rank correlation with the scores of pairs where there are any, else the mean cosine to the teacher."""
        return "spearman" if known_rows(labels).any() else self.metric

    def find_columns(self, dataset: Dataset, asked: Mapping[str, Any] | None, *, labelled: bool = True) -> dict[str, str]:
        """``text``; for pairs ``text_pair`` and, where there is one, ``label`` with the score of the pair."""
        label = (asked or {}).get("label")
        if label is not None:
            return find_numbers(dataset, asked, labelled=labelled)
        scores = [name for name in dataset.features if name.strip().lower() in NUMBER_NAMES]
        texts = Features({name: feature for name, feature in dataset.features.items() if name not in scores})
        roles = find_text(texts, asked, labelled=False)
        is_scored = labelled and "text_pair" in roles and len(scores) == 1
        return {**roles, "label": scores[0]} if is_scored else roles

    def load_model(self, name_or_path: str, *, num_labels: int, label_names: Sequence[str]) -> PreTrainedModel:
        """A sentence encoder whose embedding has `num_labels` numbers; its last layer is new where the checkpoint has none.

        Raises:
            ModelError: Nothing to load there.
        """
        try:
            config = AutoConfig.from_pretrained(name_or_path)
            model: PreTrainedModel = AutoSentenceEncoder.from_pretrained(name_or_path, config=config, num_labels=num_labels)
        except (OSError, ValueError) as err:
            raise loading_error(name_or_path, "an encoder of texts", err) from err
        return model

    def save_beside(self, model: Any, folder: Path) -> None:
        """The files of sentence-transformers; see `potstill.models.sentence_model.save_for_sentence_transformers`."""
        save_for_sentence_transformers(model, folder)

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """Rank correlation of pairs' cosines with their scores, and the mean cosine to the teacher, where there is either."""
        found = {"spearman": pair_correlation(logits, labels)} if known_rows(labels).any() else {}
        return found if teacher is None else {**found, "teacher_cosine": embedding_closeness(logits, teacher)["teacher_cosine"]}

    def closeness(self, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
        """See `potstill.answers.closeness.embedding_closeness`."""
        return embedding_closeness(student, teacher)

    def per_class(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Nothing: there are no classes."""
        return []
