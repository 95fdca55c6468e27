"""Gradients of a model's largest logit by its inner values: the model goes on from a leaf instead of the value.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from potstill.errors import NeedsError


def leaf_of(value: Tensor) -> Tensor:
    """The same numbers as the start of a graph.

    Raises:
        NeedsError: They are whole numbers, of which there is no gradient.
    """
    if not value.is_floating_point():
        raise NeedsError("whole numbers such as token ids have no gradient", "tap: embedding, or a block", "set tap: embedding")
    return value.detach().requires_grad_(True)


def exchanged(container: Any, old: Tensor, new: Tensor) -> Any:
    """What a module takes or gives (a tensor, a tuple, a list or a mapping with tensors), with `new` instead of `old`."""
    if container is old:
        return new
    if isinstance(container, (tuple, list)):
        return type(container)(new if item is old else item for item in container)
    if isinstance(container, Mapping):
        for key, item in container.items():
            if item is old:
                container[key] = new  # type: ignore[index]
    return container


def largest_logit_by(logits: Tensor, leaves: Mapping[str, Tensor], *, keeps_graph: bool) -> dict[str, Tensor]:
    """By name, ∂ Σ_b max_c logits[b, c] / ∂ leaf, in the leaf's shape; zero where the logits do not depend on it.

    Args:
        keeps_graph: The graph is used again.

    Raises:
        NeedsError: Logits of words or places, which have no one largest.
    """
    if logits.dim() != 2:
        raise NeedsError(
            f"the gradient of the largest logit is of one answer for each row, the logits are {list(logits.shape)}",
            "a task that answers whole rows",
            "take the loss kl",
        )
    largest = logits.gather(-1, logits.detach().argmax(-1, keepdim=True)).sum()
    found = torch.autograd.grad(largest, list(leaves.values()), retain_graph=keeps_graph, allow_unused=True)
    return {name: torch.zeros_like(leaf) if each is None else each for (name, leaf), each in zip(leaves.items(), found)}
