"""From values per unit to one number: the mean within a row, then none, sum or mean over rows; and a divergence to one per unit.

Shapes: B rows; a row may hold further units (tokens, heads, positions), of which a mask keeps some.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from potstill.errors import NeedsError, RecipeError
from potstill.losses.contract import IGNORED_LABEL

Reduction = Literal["none", "sum", "mean"]


def _row_means(values: Tensor, mask: Tensor | None) -> Tensor:
    """[B], the mean over the kept units of each row; zero for a row without any."""
    if mask is None:
        return values.flatten(1).mean(1) if values.dim() > 1 else values
    kept = mask.bool().expand_as(values)
    values = torch.where(kept, values, torch.zeros_like(values))
    if values.dim() == 1:
        return values
    return values.flatten(1).sum(1) / kept.flatten(1).sum(1).clamp(min=1)


def over_rows(values: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce values [B] or [B, ...] per unit: mean within each row, then `reduction` over rows.

    The mask broadcasts against the values and is true on units that count. "mean" divides by the rows that have such a unit.
    """
    rows = _row_means(values, mask)
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    _known(reduction)
    if mask is None:
        return rows.sum() / max(rows.shape[0], 1)
    kept = mask.bool().expand_as(values).reshape(values.shape[0], -1).any(1).sum()
    return rows.sum() / kept.clamp(min=1)


def alike(student: Tensor, teacher: Tensor, *others: Tensor) -> None:
    """Refuse values of different shapes, which would be broadcast and not compared one by one."""
    shapes = [list(value.shape) for value in (student, teacher, *others)]
    if any(shape != shapes[0] for shape in shapes):
        raise NeedsError(
            f"values of the shapes {' and '.join(map(str, shapes))} cannot be compared one by one",
            "the same shape on both sides",
            "reshape one of them, or bring the student's into the teacher's width first",
        )


class LabelRangeError(NeedsError, IndexError):
    """A label that is the number of no class."""


def known_labels(labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Labels [B] or [B, T] as they are, if each is the number of a class, or -100 for none; None where any number will do.

    On a GPU a wrong one stops the process at the next synchronisation, without a wait here.

    Raises:
        LabelRangeError: One is not.
    """
    is_wrong = (labels < 0) & (labels != IGNORED_LABEL)
    if num_classes is not None:
        is_wrong |= labels >= num_classes
    if labels.device.type != "cpu":
        torch._assert_async(~is_wrong.any())
    elif bool(is_wrong.any()):
        raise LabelRangeError(
            f"a label is {int(labels[is_wrong][0])}" + ("" if num_classes is None else f", and the classes are {num_classes}"),
            f"labels from 0{'' if num_classes is None else f' to {num_classes - 1}'}, or {IGNORED_LABEL} for none",
            "check the labels, or give the model as many classes",
        )
    return labels


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) over the last axis from log-probabilities of one shape."""
    alike(log_q, log_p)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def of_batch(value: Tensor, num_rows: int, reduction: Reduction) -> Tensor:
    """Reduce a scalar that belongs to the batch as a whole: each row stands for the scalar."""
    if reduction == "none":
        return value.expand(num_rows)
    if reduction == "sum":
        return value * num_rows
    _known(reduction)
    return value


def over_labelled(values: Tensor, labels: Tensor, reduction: Reduction) -> Tensor:
    """Reduce one value per unit over the units that have a label.

    `labels` [B] or [B, T] are -100 where there is none, whose value counts as zero; "none" keeps their shape.
    """
    kept = labels != IGNORED_LABEL
    values = torch.where(kept, values.view(labels.shape), values.new_zeros(()))
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    _known(reduction)
    return values.sum() / kept.sum().clamp(min=1)


def root(squared: Tensor, above: float = 0.0) -> Tensor:
    """√ of numbers above a bound; zero, without a gradient, elsewhere."""
    counts = squared > above
    return torch.where(counts, squared, torch.ones_like(squared)).sqrt() * counts


def _known(reduction: str) -> None:
    if reduction != "mean":
        raise RecipeError(f"reduction is {reduction!r}", "none, sum, mean", "take one of them")
