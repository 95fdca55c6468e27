"""From what a model's head gives to what is taught and judged: an answer for the row, for each word, or a span.

Shapes: B batch, T tokens, U units of the row with most (words; places where a span may begin or end), C classes.
A batch says itself which it is: without ``unit_positions`` the head's output is the answer; with them the answer is read at the
first token of each unit, [B, U, C]; with ``unit_ends`` as well it is a span, [B, 2, U]: one distribution over units for its
first and one for its last. What student and teacher say is then comparable, whatever tokens each of them reads.
With ``task_classes`` [B, 2] a row may only have the classes of its own task, from the first number to before the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.data.collate import TASK_CLASSES
from potstill.data.row_files import PADDING

FLOOR = -1e4
"""The logit of a unit or class that cannot be chosen: its probability is zero, and products with it stay finite."""


def head_output(output: Any) -> Tensor:
    """The logits of what a forward returns: [B, C], [B, T, C], or [B, T, 2] out of start and end logits.

    Args:
        output: A tensor, a tuple or list that begins with the logits, a mapping or an output with ``logits``, or one with
            ``start_logits`` and ``end_logits``.
    """
    if isinstance(output, Tensor):
        return output
    start = getattr(output, "start_logits", None)
    if start is not None:
        return torch.stack([start, output.end_logits], dim=-1)
    if isinstance(output, (tuple, list)):
        return output[0]  # type: ignore[no-any-return]
    return output["logits"] if isinstance(output, Mapping) else output.logits  # type: ignore[no-any-return]


def has_units(batch: Mapping[str, Any]) -> bool:
    """Whether the answer to a row of this batch has several units."""
    return "unit_positions" in batch


def is_span(batch: Mapping[str, Any]) -> bool:
    """Whether the answer is a span of units."""
    return "unit_ends" in batch


def read_units(values: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """The values at each unit's token: [B, U, C] out of [B, T, C]; zero for units without one.

    Of a span the second value is read at the last token of each unit.
    """
    positions = _tensor(batch["unit_positions"], values.device)
    found = _gathered(values, positions)
    if is_span(batch):
        ends = _gathered(values[..., 1:], _tensor(batch["unit_ends"], values.device))
        found = torch.cat([found[..., :1], ends], dim=-1)
    return found.masked_fill((positions < 0).unsqueeze(-1), 0.0)


def arranged(units: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Values of units [B, U, C] as an answer: the same, or [B, 2, U] of a span, where units without a token cannot be chosen."""
    if not is_span(batch):
        return units
    absent = _tensor(batch["unit_positions"], units.device) < 0
    return units.masked_fill(absent.unsqueeze(-1), FLOOR).transpose(1, 2)


def by_unit(answers: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """The inverse of `arranged`: [B, U, C]."""
    return answers.transpose(1, 2) if is_span(batch) else answers


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


def unit_mask(batch: Mapping[str, Any], device: torch.device | None = None) -> Tensor:
    """Which units of the answers to a batch with units count: those with a token [B, U]; of a span both ends [B, 2]."""
    has_token = _tensor(batch["unit_positions"], device) >= 0
    return torch.ones_like(has_token[:, :1]).expand(-1, 2) if is_span(batch) else has_token


def real_units(batch: Mapping[str, Any]) -> Tensor:
    """Which entries are units of their rows and no padding [B, U] bool, whether they have a token or not."""
    return _tensor(batch["unit_positions"]) != PADDING


def joined(parts: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """Arrays of several batches as one, each padded with `fill` to the widest along every axis but the first."""
    shape = np.max([part.shape[1:] for part in parts], axis=0).tolist() if parts[0].ndim > 1 else []
    whole = np.full((sum(len(part) for part in parts), *shape), fill, parts[0].dtype)
    start = 0
    for part in parts:
        whole[(slice(start, start + len(part)), *(slice(0, size) for size in part.shape[1:]))] = part
        start += len(part)
    return whole


def pooled(logits: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The answers to texts that were read in segments: the log of the mean probability of each class.

    Args:
        logits: Answers to segments [N, C].
        groups: Which text each belongs to [N].

    Returns:
        Answers to texts [G, C] in the order in which they first occur, and the row of each text's first segment [G].

    Example:
        >>> np.exp(pooled(np.log([[0.8, 0.2], [0.4, 0.6]]), np.array([7, 7]))[0]).round(3).tolist()
        [[0.6000000238418579, 0.4000000059604645]]
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    shifted = np.asarray(logits, np.float64) - np.max(logits, -1, keepdims=True)
    probabilities = np.exp(shifted)
    probabilities /= probabilities.sum(-1, keepdims=True)
    sums = np.zeros((len(first), logits.shape[-1]))
    np.add.at(sums, member, probabilities)
    means = sums / np.bincount(member)[:, None]
    return np.log(np.maximum(means, np.finfo(np.float32).tiny)).astype(np.float32)[order], first[order]


def _gathered(values: Tensor, positions: Tensor) -> Tensor:
    index = positions.clamp(min=0).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, index)


def _tensor(value: Any, device: torch.device | None = None) -> Tensor:
    return torch.as_tensor(value, device=device)
