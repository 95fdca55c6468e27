"""Every loss of the catalogue as a pure function: ``functional.<name>(student, teacher, …, reduction="mean")``.

In all of them `mask`, [B] or [B, T], is true on the rows or tokens that count, and a row is the mean over those; `reduction` over
rows is "none" ([B]), "sum" or "mean". What differs is said at the function. A function is imported when it is asked for.

Example:
    >>> import torch
    >>> from potstill.losses import functional as F
    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> float(F.kl(logits, logits))
    0.0
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from potstill.losses.catalogue import LOSSES, function

NAMES = tuple(LOSSES)
OF_HEADS = ("VocabularyHead", "linear_divergence")  # `potstill.losses.vocabulary`: from hidden states, without the logits
__all__ = [*OF_HEADS, *NAMES]


def __getattr__(name: str) -> Callable[..., Any]:
    if name in OF_HEADS:
        return getattr(importlib.import_module("potstill.losses.vocabulary"), name)
    if name not in LOSSES:
        raise AttributeError(f"potstill.losses.functional has no loss {name!r}; it has {', '.join(NAMES)}")
    return function(name)


def __dir__() -> list[str]:
    return sorted((*globals(), *OF_HEADS, *NAMES))
