"""Multi-label classification: any number of labels for a text or a pair of texts."""

# N rows, C labels

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from potstill.answers.closeness import label_closeness
from potstill.answers.graded_quality import label_set_quality, per_label
from potstill.answers.label_columns import find_label_sets
from potstill.contracts.answers import SEVERAL_LABELS, Answers
from potstill.tasks.text_classification import TextClassification


class MultiLabel(TextClassification):
    """Any number of labels for a text; each label is a yes or a no of its own, decided at a probability of one half."""

    name = "multi-label"
    metric = "micro_f1"
    label_kind = "labels"
    config_values = MappingProxyType({"problem_type": "multi_label_classification"})

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """Binary cross-entropy from labels and from the teacher's probabilities; `labels` changes nothing."""
        return SEVERAL_LABELS

    def find_columns(self, dataset: Dataset, asked: Mapping[str, Any] | None, *, labelled: bool = True) -> dict[str, str]:
        """``text``, ``text_pair`` and the label columns; see `potstill.answers.label_columns.find_label_sets`."""
        return find_label_sets(dataset, asked, labelled=labelled)

    def load_model(self, name_or_path: str, *, num_labels: int, label_names: Sequence[str]) -> PreTrainedModel:
        """As for classification, with its problem type set."""
        model = super().load_model(name_or_path, num_labels=num_labels, label_names=label_names)
        model.config.problem_type = self.config_values["problem_type"]
        return model

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """Micro and macro F1 and subset accuracy; see `potstill.answers.graded_quality.label_set_quality`."""
        return label_set_quality(logits, labels)

    def closeness(self, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
        """Decisions alike and mean KL; see `potstill.answers.closeness.label_closeness`."""
        return label_closeness(student, teacher)

    def per_class(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each label; see `potstill.answers.graded_quality.per_label`."""
        return per_label(logits, labels)
