"""What the answers of a task are: how they are read out of a model, learned, compared and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from torch import Tensor, nn

    from potstill.contracts.modality import Modality

NO_LABEL = -100
"""Stands for a label that is not there; NaN does where labels are numbers."""


class Predictions(NamedTuple):
    """Answers in the order of the rows.

    Args:
        logits: [N, C] float32; [N, U, C] where rows have several units.
        labels: [N] or [N, U] int64, −100 where there is none; [N, C] float32 of label sets and numbers.
        row_ids: [N] int64.
        mask: [N, U], true on the units that count; None where a row is one unit.
    """

    logits: np.ndarray
    labels: np.ndarray
    row_ids: np.ndarray
    mask: np.ndarray | None = None


class Mapped(NamedTuple):
    """Takes labels as written to arrays: labels of a split and its name → [N, ...]; and what there is to say."""

    positions: Callable[[Sequence[Any], str], np.ndarray]
    notes: list[str]


class Judge(Protocol):
    """Measures the answers of one model, batch by batch, against labels and against another model's answers."""

    def update(self, student: Predictions, teacher: Predictions | None = None) -> None:
        """Take in the answers to some rows; the teacher's are to the same rows in the same order."""

    def quality(self) -> dict[str, float]:
        """Measures against labels, and against the teacher where a measure is."""

    def per_class(self) -> list[dict[str, Any]]:
        """``label``, ``support``, ``precision``, ``recall`` and ``f1`` of each class; empty where there are no classes."""

    def closeness(self) -> Any:
        """Figures against the teacher's answers (`answers.judging.Closeness`)."""

    def calibration(self) -> Any:
        """Confidence against accuracy (`answers.fidelity.Reliability`); None where answers have no confidence."""

    def worst(self, names: Sequence[str], count: int) -> list[Any]:
        """At most `count` rows where the student falls furthest behind the teacher, worst first (`answers.judging.Worst`)."""

    def row_sums(self, metric: str) -> tuple[np.ndarray, Callable[[np.ndarray], float]] | None:
        """[N, S] whose means over rows give the metric, and the function [S] → metric; None where it is no such function."""


class Answers(Protocol):
    """A kind of answers.

    Attributes:
        is_optional: Whether rows may do without labels.
        kind: Its name in `potstill.answers.ANSWERS`.
        reported: The kind as figures name it; words are judged by the measures of classes.
        noun: What answers of this kind are called in messages.
        metric: The measure that models are compared by, a key of the judge's quality; higher is better.
        problem_type: As transformers writes it into a configuration; None where the head says it.
        has_label_names: Whether a model's configuration holds the names of its labels.
        outputs: Names of the model's outputs that are read.
        is_distribution: Whether the logits are those of classes that exclude each other, so that softmax and temperature mean
            something.
        per_unit: Whether each unit of a row has an answer of its own: its words, not the row.
        is_of_row: Whether the row as a whole is answered, not its words or places.
        has_uncertainty: Whether an answer says how sure it is.
        can_average: Whether the answers to the segments of a long text can be averaged.
        has_mean: Whether the mean of the answers to several rows means something.
        from_labels: The loss that learns from labels, a name and its options; None where rows have none to learn from.
        from_teacher: The losses that learn from the teacher's answers, each with its share as ``weight``.
        scale: What one unit of error is for each number of a row; None for 1.
        label_names: Names of the labels in the order of the logits; empty where they are not known.
        fewest_classes: Classes that a row can have at least; 0 where labels are not known.
    """

    kind: str
    noun: str
    reported: str
    problem_type: str | None
    has_label_names: bool
    outputs: Sequence[str]
    is_distribution: bool
    per_unit: bool
    is_of_row: bool
    has_uncertainty: bool
    can_average: bool
    has_mean: bool
    from_labels: Mapping[str, Any] | None
    from_teacher: tuple[Mapping[str, Any], ...]
    scale: Sequence[float] | None
    label_names: Sequence[str]
    is_optional: bool

    @property
    def metric(self) -> str: ...

    @property
    def fewest_classes(self) -> int: ...

    def find_columns(
        self, dataset: Dataset, asked: Mapping[str, Any] | None, modality: Modality, *, labelled: bool = True
    ) -> dict[str, str]:
        """Role → column, of the content and of the labels; raises DataError with the choices where it is not clear."""

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
        """Labels as written, one a row, None where a row has none."""

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """The names and what takes labels to them (`Mapped`), from the training rows; `given` is the teacher's order."""

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Mapping[str, str]) -> Mapped:
        """What takes labels to known names, of which the rows may lack some."""

    def renamed(self, raw: Sequence[Any], label_map: Mapping[str, str]) -> list[Any]:
        """Labels as written with other names; raises DataError where labels have no names."""

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """Labels of rows that have none."""

    def strata(self, values: np.ndarray) -> np.ndarray:
        """[N] int64 the group of each row, whose shares are kept where rows are drawn."""

    def spread(self, content: pa.Table, values: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """Rows as they are encoded, where one row of the data becomes several."""

    def scaled(self, labels: np.ndarray | None) -> Answers:
        """The same kind with the scales of these labels [N, ...] of training rows."""

    def metric_for(self, labels: np.ndarray) -> str:
        """The measure that models are compared by on rows with these labels."""

    def arrange(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The answers to a batch out of the model's named outputs, first axis B, and which of their units count."""

    def batches(self, collator: Callable[..., Any]) -> Callable[..., Any]:
        """The collator of the rows, with what the arrangement reads of a batch."""

    def uncertainty(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B] from 0 (sure) to 1."""

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """How far each answer is from the teacher's, [B] or [B, U]."""

    def label_distance(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B] how far each row's answer is from its label; NaN where it has none."""

    def closeness(self, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
        """Figures of a student's answers against the teacher's while it trains."""

    def start_head(self, head: nn.Module, labels: np.ndarray) -> None:
        """Bring a new final layer into the units of the labels of the training rows."""

    def judge(self) -> Judge:
        """A judge that has seen nothing yet."""

    def text_scores(self, found: Predictions, rows: Dataset) -> dict[str, np.ndarray]:
        """Measures that need the rows as a person reads them, of each text in the order in which texts first occur [G]."""

    def text_quality(self, found: Predictions, rows: Dataset) -> dict[str, float]:
        """Their means; empty where there are none."""

    def named(self, found: Predictions, content: pa.Table, rows: Dataset) -> pa.Table:
        """The answers in words: ``prediction`` and how sure it is, one line for each row of `content`.

        Args:
            found: What a model answers on `rows`.
            content: The rows as they were given, before long ones were split.
            rows: The same as they were encoded.
        """

    def save_extras(self, model: Any, folder: Path) -> None:
        """Files that other libraries read, saved with the model."""
