"""What a task is to the rest of Potstill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from potstill.contracts.answers import Answers
from potstill.data.encoded import EncodedRows


@runtime_checkable
class Task(Protocol):
    """A kind of work: its rows, its model head, its batches and its measure.

    Attributes:
        name: As in `potstill.tasks.TASKS`.
        modality: ``"text"`` or ``"image"``.
        metric: The measure that models are compared by, a key of `quality`; higher is better.
        config_values: What the configuration of a model for this task says beside its labels.
        label_kind: How labels are written and encoded: ``"class"``, ``"labels"``, ``"numbers"``; see `answers.label_kinds`.
    """

    name: str
    modality: str
    metric: str
    label_kind: str
    config_values: Mapping[str, Any]

    def find_columns(self, dataset: Dataset, asked: Mapping[str, str] | None, *, labelled: bool = True) -> dict[str, str]:
        """Role → column; raises DataError with the choices where it is not clear."""
        ...

    def load_model(self, name_or_path: str, *, num_labels: int, label_names: Sequence[str]) -> PreTrainedModel:
        """A model with this task's head, new where the checkpoint has none that fits."""
        ...

    def load_processor(self, name_or_path: str, *, model_config: Any = None) -> Any:
        """The tokenizer or image processor."""
        ...

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedRows:
        """Rows encoded into a folder, or opened where it holds the same rows already."""
        ...

    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
        """Makes a batch of encoded rows."""
        ...

    def example_inputs(self, model: PreTrainedModel, *, batch: int = 1, tokens: int | None = None) -> dict[str, torch.Tensor]:
        """Inputs of the right names, shapes and types, for export and for counting operations."""
        ...

    def dynamic_axes(self, model: PreTrainedModel) -> dict[str, dict[int, str]]:
        """Input name → {axis: ``"batch"`` or ``"tokens"``}."""
        ...

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """What is answered and which losses teach it; `labels` of the training rows set scales where there are any."""
        ...

    def metric_for(self, labels: np.ndarray) -> str:
        """The measure that models are compared by on rows with these labels."""
        ...

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """Measures of answers [N, C] against labels [N] or [N, C], and against the teacher's answers where a measure is."""
        ...

    def per_class(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each class; empty where there are no classes."""
        ...

    def text_of(self, row: Mapping[str, Any]) -> str:
        """A row as a person reads it."""
        ...
