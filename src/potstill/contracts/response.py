"""What a teacher says of the rows of a batch: the contract of its kinds.

Shapes: B batch, T tokens (or units), C classes, S entries of a support.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from potstill.errors import NeedsError


class Response(ABC):
    """What a teacher says of a batch; `potstill.knowledge.responses` lists the kinds."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def of(cls, logits: Tensor, *, seed: int = 0) -> Self:
        """What this kind keeps of every logit [B, C] or [B, T, C]; a kind may have further options.

        Args:
            logits: The teacher's.
            seed: For what is drawn.
        """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the student's logits that it can be compared with; empty where it stands for none."""

    @property
    def fixed_temperature(self) -> float | None:
        """The one temperature at which it can be compared; None where any will do."""
        return None

    @property
    def logits(self) -> Tensor:
        """Every logit, in `shape`.

        Raises:
            NeedsError: This kind does not hold every logit.
        """
        raise NeedsError(
            f"every logit of the teacher is needed, and the source keeps {self.name!r}",
            "a source that gives every logit ('dense')",
            "use the live teacher or a cache of kind 'dense', or the loss kl",
        )

    @abstractmethod
    def aligned(self, student_logits: Tensor, temperature: float | Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student over one support, both [B, S] or [B, T, S].

        Args:
            student_logits: In `shape`.
            temperature: τ of both sides.
            mask: [B] or [B, T], true on what counts; the rest is finite and has no gradient.

        Raises:
            NeedsError: It cannot be compared at that temperature, or with that number of classes.
        """

    @abstractmethod
    def pack(self) -> dict[str, np.ndarray]:
        """What a cache stores: arrays with B entries, and numbers [] that are those of all rows."""

    @classmethod
    @abstractmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The inverse of `pack`; other arrays are left alone."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same on a device; itself where it lies there."""
