"""Every logit of every class.

Shapes: B batch, T tokens (or units), C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from potstill.ground.precision import full_precision, log_probabilities
from potstill.knowledge.responses.tensors import TensorResponse


@dataclass(frozen=True)
class DenseLogits(TensorResponse):
    """Every logit.

    Args:
        values: [B, C] or [B, T, C].
    """

    name: ClassVar[str] = "dense"
    values: Tensor

    @classmethod
    def of(cls, logits: Tensor, *, seed: int = 0) -> Self:
        """The logits as they are."""
        return cls(logits)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits."""
        return tuple(self.values.shape)

    @property
    def logits(self) -> Tensor:
        """Every logit."""
        return self.values

    @full_precision
    def aligned(self, student_logits: Tensor, temperature: float | Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Over all C classes."""
        return log_probabilities(self.values, temperature, mask), log_probabilities(student_logits, temperature, mask)

    def pack(self) -> dict[str, np.ndarray]:
        """The logits."""
        return {"logits": self.values.detach().cpu().numpy()}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The logits."""
        return cls(torch.from_numpy(arrays["logits"]))
