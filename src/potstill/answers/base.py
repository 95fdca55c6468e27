"""What kinds of answers have in common: the arrangement by a batch's keys, means over units, and what most kinds do not have.

Shapes: B batch, U units of the row with most, C classes, labels or numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from potstill.answers import units
from potstill.contracts.answers import NO_LABEL, Answers, Predictions
from potstill.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


class RowAnswers:
    """The base of all kinds; see `contracts.answers.Answers` for what each member means."""

    kind = reported = ""
    noun = "answers"
    metric = "accuracy"
    problem_type: str | None = None
    has_label_names = True
    outputs: Sequence[str] = ("logits",)
    is_distribution = False
    per_unit = False
    is_of_row = True
    is_optional = False
    has_uncertainty = True
    can_average = False
    has_mean = True
    from_labels: Mapping[str, Any] | None = None
    from_teacher: tuple[Mapping[str, Any], ...] = ()
    scale: Sequence[float] | None = None
    label_names: Sequence[str] = ()

    @property
    def fewest_classes(self) -> int:
        """All classes, which any row can have."""
        return len(self.label_names)

    def scaled(self, labels: np.ndarray | None) -> Answers:
        """Itself: answers without units."""
        del labels
        return self  # type: ignore[return-value]  # complete in each kind

    def metric_for(self, labels: np.ndarray) -> str:
        """The same measure on any rows."""
        del labels
        return self.metric

    def arrange(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """[B, C] and None; [B, U, C] and the mask [B, U]; or [B, 2, U] and a mask of ones [B, 2]."""
        logits = outputs["logits"]
        if not units.has_units(batch):
            return units.of_own_task(logits, batch), None
        return units.arranged(units.read_units(logits, batch), batch), units.unit_mask(batch, logits.device)

    def batches(self, collator: Callable[..., Any]) -> Callable[..., Any]:
        """The collator as it is."""
        return collator

    def renamed(self, raw: Sequence[Any], label_map: Mapping[str, str]) -> list[Any]:
        """Refused: there are no names.

        Raises:
            DataError: Always.
        """
        raise DataError(
            f"data.label_map is given, and the task answers with {self.noun}",
            "data.label_map for tasks whose labels have names",
            "leave out data.label_map",
        )

    def spread(self, content: pa.Table, values: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """Rows as they are."""
        return content, values

    def strata(self, values: np.ndarray) -> np.ndarray:
        """One group: rows are drawn by chance alone."""
        return np.zeros(len(values), np.int64)

    def start_head(self, head: nn.Module, labels: np.ndarray) -> None:
        """Nothing to do: the head has no units."""

    def text_scores(self, found: Predictions, rows: Dataset) -> dict[str, np.ndarray]:
        """Nothing: the encoded labels are all that is measured."""
        return {}

    def text_quality(self, found: Predictions, rows: Dataset) -> dict[str, float]:
        """The means of `text_scores`."""
        return {name: float(scores.mean()) for name, scores in self.text_scores(found, rows).items()}

    def save_extras(self, model: Any, folder: Path) -> None:
        """Nothing: save_pretrained has written all there is."""


def by_name(values: np.ndarray, names: Sequence[str]) -> pa.StructArray:
    """Numbers [N, C] as one column, in which each is found by its name."""
    return pa.StructArray.from_arrays([pa.array(column, pa.float32()) for column in np.asarray(values).T], list(map(str, names)))


def label_columns(roles: Mapping[str, str]) -> tuple[str, ...]:
    """The columns that hold labels: of the role ``label``, or of the roles ``label:NAME``, one column a label or number."""
    return tuple(column for role, column in roles.items() if role == "label" or role.startswith("label:"))


def known_numbers(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
    """Labels in the shape of the logits, 0 where they are not known, and where they are; None where the numbers do not fit."""
    if labels.numel() != logits.numel():
        return None
    labels = labels.view_as(logits).float()
    is_known = (labels != NO_LABEL) & ~labels.isnan()
    return torch.where(is_known, labels, 0.0), is_known


def unknown(logits: Tensor) -> Tensor:
    """[B] NaN: nothing to compare with."""
    return logits.new_full((len(logits),), math.nan)


def known_means(values: Tensor, is_known: Tensor) -> Tensor:
    """[B] the mean over the known places of each row; NaN where none is known."""
    counts = is_known.flatten(1).sum(1) if is_known.dim() > 1 else is_known.long()
    values = torch.where(is_known, values, 0.0)
    sums = values.flatten(1).sum(1) if values.dim() > 1 else values
    return torch.where(counts > 0, sums / counts.clamp(min=1), sums.new_full((), math.nan))


def means_of_units(values: Tensor, mask: Tensor | None) -> Tensor:
    """[B] the mean of [B, U] over the units that count; itself where a row has one."""
    if values.dim() == 1:
        return values
    if mask is None:
        return values.flatten(1).mean(1)
    kept = mask.to(values.dtype)
    return (values * kept).sum(1) / kept.sum(1).clamp(min=1)
