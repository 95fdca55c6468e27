"""Regression: one number or several for a text or a pair of texts."""

# N rows, K numbers

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from potstill.answers.closeness import number_closeness
from potstill.answers.graded_quality import number_quality
from potstill.answers.label_columns import find_numbers
from potstill.contracts.answers import Answers
from potstill.tasks.text_classification import TextClassification


class Regression(TextClassification):
    """One number or several for a text, in the units of the data."""

    name = "regression"
    metric = "concordance"
    label_kind = "numbers"
    config_values = MappingProxyType({"problem_type": "regression"})

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """Squared error to labels and to the teacher, in units of the standard deviation of `labels` [N, K]."""
        scale = None if labels is None else spread_of(labels)
        unit = {} if scale is None else {"scale": scale}
        return Answers("numbers", {"name": "regression", "target": "labels", **unit}, ({"name": "regression", **unit},), scale)

    def find_columns(self, dataset: Dataset, asked: Mapping[str, Any] | None, *, labelled: bool = True) -> dict[str, str]:
        """``text``, ``text_pair`` and the columns of numbers; see `potstill.answers.label_columns.find_numbers`."""
        return find_numbers(dataset, asked, labelled=labelled)

    def load_model(self, name_or_path: str, *, num_labels: int, label_names: Sequence[str]) -> PreTrainedModel:
        """As for classification, with its problem type set."""
        model = super().load_model(name_or_path, num_labels=num_labels, label_names=label_names)
        model.config.problem_type = self.config_values["problem_type"]
        return model

    def start_head(self, head: nn.Linear, labels: np.ndarray) -> None:
        """Bring a new head into the units of the labels: their mean as bias, weights times their standard deviation.

        Training then sees a problem of zero mean and unit spread, whatever the units are.

        Args:
            head: The final layer, with random weights.
            labels: [N, K] of the training rows.
        """
        with torch.no_grad():
            head.weight.mul_(torch.tensor(spread_of(labels))[:, None])
            head.bias.copy_(torch.tensor(np.nanmean(labels.astype(np.float64), axis=0)))

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """Concordance, correlations, R² and errors; see `potstill.answers.graded_quality.number_quality`."""
        return number_quality(logits, labels)

    def closeness(self, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
        """Correlation with the teacher and distance from it; see `potstill.answers.closeness.number_closeness`."""
        return number_closeness(student, teacher)

    def per_class(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Nothing: there are no classes."""
        return []


def spread_of(labels: np.ndarray) -> list[float]:
    """The standard deviation of each number [K]; 1 where it never changes."""
    spread = np.nanstd(labels.astype(np.float64), axis=0)
    return [float(value) if value > 0 else 1.0 for value in spread]
