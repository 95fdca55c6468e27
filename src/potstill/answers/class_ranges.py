"""Batches whose rows belong to several tasks: which classes a row may have, and the rows of each task.

Shapes: B batch, C classes of all tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from potstill.data.collate import TASK_CLASSES

FLOOR = -1e4
"""The logit of a unit or class that cannot be chosen: its probability is zero, and products with it stay finite."""


def of_own_task(logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Logits [B, C] in which the classes of other tasks cannot be chosen; as they are where the batch names no classes."""
    if TASK_CLASSES not in batch:
        return logits
    bounds = torch.as_tensor(batch[TASK_CLASSES], device=logits.device)
    classes = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill((classes < bounds[:, :1]) | (classes >= bounds[:, 1:]), FLOOR)


def by_task(batch: Mapping[str, Any]) -> Iterator[tuple[int, int, Tensor, dict[str, Any]]]:
    """For each task that occurs in a batch: its first class, the one after its last, its rows [b], and a batch of them."""
    bounds: Tensor = batch[TASK_CLASSES]
    for block in torch.unique(bounds, dim=0):
        rows = torch.nonzero((bounds == block).all(1))[:, 0]
        start, stop = block.tolist()
        yield start, stop, rows, {name: _of_rows(value, rows, len(bounds)) for name, value in batch.items()}


def _of_rows(value: Any, rows: Tensor, size: int) -> Any:
    has_rows = isinstance(value, Tensor) and value.dim() > 0 and len(value) == size
    return value[rows.to(value.device)] if has_rows else value
