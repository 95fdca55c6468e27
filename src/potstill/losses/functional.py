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

from collections.abc import Callable
from typing import TYPE_CHECKING

from potstill.losses.catalogue import LOSSES, function

if TYPE_CHECKING:
    from torch import Tensor

NAMES = tuple(LOSSES)
__all__ = list(NAMES)


def __getattr__(name: str) -> Callable[..., Tensor]:
    if name not in LOSSES:
        raise AttributeError(f"potstill.losses.functional has no loss {name!r}; it has {', '.join(NAMES)}")
    return function(name)


def __dir__() -> list[str]:
    return sorted((*globals(), *NAMES))
