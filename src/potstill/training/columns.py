"""Columns of a data set that a trainer reads: what the models' forwards take, and what losses and sources look up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import default_data_collator

from potstill.data.collate import NOT_INPUTS
from potstill.errors import PotstillError, TrainingError, first_line
from potstill.models.inputs import InputNames
from potstill.training.id_ranges import models_of
from potstill.training.terms import Term

LABELS = ("label", "labels", "label_ids")
OF_TEACHER = "teacher_"


class ExplainedCollator:
    """A collator whose failures say what to do about them.

    Args:
        collator: Makes the batch.
    """

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self.collator = collator

    def __call__(self, rows: list[Any]) -> Any:
        """The batch of rows.

        Raises:
            TrainingError: The rows cannot be made into one.
        """
        try:
            return self.collator(rows)
        except PotstillError:
            raise
        except (ValueError, TypeError, KeyError) as err:
            accepted, todo = self._remedy(rows)
            raise TrainingError(f"rows cannot be made into a batch: {first_line(err)}", accepted, todo) from err

    def _remedy(self, rows: list[Any]) -> tuple[str, str]:
        first = rows[0] if rows and isinstance(rows[0], Mapping) else {}
        texts = [name for name, value in first.items() if isinstance(value, str)]
        if label := next((name for name in texts if name in LABELS), None):
            return "labels that are numbers", f"number them: dataset.class_encode_column({label!r})"
        if texts and not {"input_ids", "pixel_values"} & first.keys():
            return (
                "rows of numbers",
                f"tokenize them: dataset.map(lambda row: tokenizer(row[{texts[0]!r}], truncation=True))",
            )
        if texts:
            return "columns of numbers", f"leave out {', '.join(texts)}: dataset.remove_columns({texts})"
        if self.collator is default_data_collator:
            return "rows of one length, or a tokenizer that pads them", "pass processing_class=tokenizer"
        return "rows that the data_collator can join", "look at dataset[0], or pass a data_collator of your own"


class KnownColumns:
    """A collator that leaves out the columns which nobody reads, as `transformers.Trainer` does with ``remove_unused_columns``.

    Kept are what the student's and the teacher's forwards take by name, labels, what the losses read of a batch, and what begins
    with ``teacher_``. A source that is the user's own may look up anything: for it, numbers and tensors are kept too. Rows that
    are no mappings, or of which no forward takes a column by its name, stay as they are.

    Args:
        collator: Makes the batch.
    """

    def __init__(self, collator: Callable[[list[Any]], Any], student: nn.Module, source: Any, terms: Sequence[Term]) -> None:
        self.collator = collator
        models = [_unwrapped(student), *map(_unwrapped, models_of(source))]
        self.inputs = frozenset(name for model in models for name in InputNames(model).names)
        self.looked_up = frozenset(NOT_INPUTS) | set(LABELS) | {need for term in terms for need in term.loss.needs_batch()}
        self.keeps_numbers = source is not None and len(models) == 1

    def __call__(self, rows: list[Any]) -> Any:
        """The batch of rows without the columns that are not read."""
        first = rows[0] if rows else None
        if not isinstance(first, Mapping) or not self.inputs & first.keys():
            return self.collator(rows)
        kept = [
            name for name in first if self._reads(name) or (self.keeps_numbers and all(_is_number(row[name]) for row in rows))
        ]
        return self.collator([{name: row[name] for name in kept if name in row} for row in rows])

    def _reads(self, name: str) -> bool:
        return name in self.inputs or name in self.looked_up or name.startswith(OF_TEACHER)


def _unwrapped(model: Any) -> nn.Module:
    """The model whose forward names its inputs: adapters of peft take anything."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return isinstance(value, Number | Tensor) or torch.is_tensor(value)
