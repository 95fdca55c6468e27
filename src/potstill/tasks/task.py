"""A task on models of transformers: a modality, answers and a head put together."""

# N rows, C classes, labels or numbers

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from potstill.answers.judging import judged
from potstill.contracts.answers import Answers, Predictions
from potstill.contracts.modality import Modality
from potstill.errors import ModelError, PotstillError
from potstill.ground.counted import counted
from potstill.modalities import loading_error
from potstill.models.load import auto_class


class ModelTask:
    """A kind of work; see `contracts.task.Task` for what each member means."""

    def __init__(
        self, name: str, modality: Modality, answers: Answers, head: str, siblings: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.modality, self.head, self._answers = name, modality, head, answers
        self.siblings: Mapping[str, str] = dict(siblings or {})
        self.load_processor, self.encode, self.text_of = modality.load_processor, modality.encode, modality.text_of
        self.example_inputs, self.dynamic_axes = modality.example_inputs, modality.dynamic_axes
        self.metric_for = answers.metric_for

    @property
    def label_names(self) -> Sequence[str]:
        """Names of the labels in the order of the logits; the run sets them."""
        return self._answers.label_names

    @label_names.setter
    def label_names(self, names: Sequence[str]) -> None:
        self._answers.label_names = tuple(names)

    @property
    def metric(self) -> str:
        """The measure that models are compared by."""
        return self._answers.metric

    @property
    def config_values(self) -> Mapping[str, Any]:
        """The problem type, where the kind of answers has one that the head does not say."""
        return {} if self._answers.problem_type is None else {"problem_type": self._answers.problem_type}

    def find_columns(self, dataset: Dataset, asked: Mapping[str, Any] | None, *, labelled: bool = True) -> dict[str, str]:
        """Content by the modality, labels by the answers."""
        return self._answers.find_columns(dataset, asked, self.modality, labelled=labelled)

    def load_model(self, name_or_path: str, *, num_labels: int, label_names: Sequence[str]) -> PreTrainedModel:
        """A model with this task's head, new where the checkpoint has none of this size.

        Raises:
            ModelError: Nothing to load there, or another number of names than labels.
        """
        settings: dict[str, Any] = {"num_labels": num_labels}
        if self._answers.has_label_names:
            if len(label_names) != num_labels:
                raise ModelError(
                    f"{counted(num_labels, 'label was', 'labels were')} asked for, and {counted(len(label_names), 'name')} given",
                    "one name a label",
                )
            names = {index: str(name) for index, name in enumerate(label_names)}
            settings |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
        try:
            model: PreTrainedModel = auto_class(self.head).from_pretrained(
                name_or_path, ignore_mismatched_sizes=True, dtype=torch.float32, **settings
            )
        except PotstillError:
            raise
        except (OSError, ValueError) as err:
            raise loading_error(name_or_path, f"a model for {self.name.replace('-', ' ')}", err) from err
        for key, value in self.config_values.items():
            setattr(model.config, key, value)
        return model

    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """The modality's, with what the answers read of a batch."""
        return self._answers.batches(self.modality.collator(processor))

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """What is answered; `labels` of the training rows set scales where there are any."""
        return self._answers.scaled(labels)

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """See `contracts.answers.Judge.quality`."""
        return self._judged(logits, labels, teacher).quality()

    def per_class(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """See `contracts.answers.Judge.per_class`."""
        return self._judged(logits, labels).per_class()

    def _judged(self, logits: np.ndarray, labels: np.ndarray, teacher: np.ndarray | None = None) -> Any:
        ids, labels = np.arange(len(logits)), np.asarray(labels)
        other = None if teacher is None else Predictions(np.asarray(teacher), labels, ids)
        return judged(self._answers.judge(), Predictions(np.asarray(logits), labels, ids), other)
