"""What a task is: rows of a modality, answers of a kind, and the head of a model; and the table of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from potstill.contracts.answers import Answers
from potstill.contracts.modality import Modality

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel


class TaskRow(NamedTuple):
    """What a task is made of.

    Args:
        modality: A name in `potstill.modalities.MODALITIES`.
        answers: A name in `potstill.answers.ANSWERS`.
        head: What the names of models for it end in.
    """

    modality: str
    answers: str
    head: str


TASKS = {
    "text-classification": TaskRow("text", "class", "ForSequenceClassification"),
    "multi-label": TaskRow("text", "labels", "ForSequenceClassification"),
    "regression": TaskRow("text", "numbers", "ForSequenceClassification"),
    "sentence-embeddings": TaskRow("text", "embedding", "ForSentenceEmbedding"),
    "token-classification": TaskRow("words", "tags", "ForTokenClassification"),
    "question-answering": TaskRow("questions", "span", "ForQuestionAnswering"),
    "image-classification": TaskRow("image", "class", "ForImageClassification"),
    "image-multi-label": TaskRow("image", "labels", "ForImageClassification"),
    "image-regression": TaskRow("image", "numbers", "ForImageClassification"),
}

# Tasks whose rows are tokens, and whose runs have stages of their own: name → what the names of models for it end in.
TOKEN_TASKS = {"causal-lm": ("ForCausalLM", "LMHeadModel")}


@runtime_checkable
class Task(Protocol):
    """A kind of work: its rows, its model head, its batches and its measure.

    Attributes:
        name: As in `TASKS`.
        modality: What a row is.
        head: What the names of models for it end in, such as ``ForSequenceClassification``.
        metric: The measure that models are compared by, a key of `quality`; higher is better.
        label_names: Names of the labels in the order of the logits; empty where they are not known.
        siblings: Problem type → the task that models with the same head and this problem type are for.
        config_values: What the configuration of a model for this task says besides its labels.
    """

    name: str
    modality: Modality
    head: str
    label_names: Sequence[str]
    siblings: Mapping[str, str]

    @property
    def metric(self) -> str: ...

    @property
    def config_values(self) -> Mapping[str, Any]: ...

    def find_columns(self, dataset: Dataset, asked: Mapping[str, Any] | None, *, labelled: bool = True) -> dict[str, str]:
        """Role → column; raises DataError with the choices where it is not clear."""

    def load_model(self, name_or_path: str, *, num_labels: int, label_names: Sequence[str]) -> PreTrainedModel:
        """A model with this task's head, new where the checkpoint has none that fits."""

    def load_processor(self, name_or_path: str, *, model_config: Any = None) -> Any:
        """The tokenizer or image processor."""

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> Any:
        """Rows encoded into a folder, or opened where it holds the same rows already."""

    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Makes a batch of encoded rows."""

    def example_inputs(self, model: Any, *, batch: int = 1, tokens: int | None = None) -> dict[str, Tensor]:
        """Inputs of the right names, shapes and types, for export and for counting operations."""

    def dynamic_axes(self, model: Any) -> dict[str, dict[int, str]]:
        """Input name → {axis: ``"batch"`` or ``"tokens"``}."""

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """What is answered and which losses teach it; `labels` of the training rows set scales where there are any."""

    def metric_for(self, labels: np.ndarray) -> str:
        """The measure that models are compared by on rows with these labels."""

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """Measures of answers [N, C] against labels [N] or [N, C], and against the teacher's answers where a measure is."""

    def per_class(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each class; empty where there are no classes."""

    def text_of(self, row: Mapping[str, Any]) -> str:
        """A row as a person reads it."""
