"""The last layer of a language model, as arithmetic on hidden states.

Shapes: N tokens, D width of the hidden states, V entries of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import NeedsError
from potstill.ground.precision import raise_precision


@dataclass(frozen=True)
class VocabularyHead:
    """The last layer of a language model: z = cap(scale · (h Wᵀ + b)), cap(z) = c · tanh(z / c) where there is one.

    Args:
        weight: W, [V, D].
        bias: b, [V]; None for none.
        scale: What the logits are multiplied by: Cohere's ``logit_scale``, one over Granite's ``logits_scaling``.
        softcap: c, Gemma's ``final_logit_softcapping``; None for none.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, head: Any) -> VocabularyHead:
        """A linear layer, or its weight, as a head; a head as it is."""
        if isinstance(head, cls):
            return head
        if isinstance(head, nn.Linear):
            return cls(head.weight, head.bias)
        if isinstance(head, Tensor) and head.dim() == 2:
            return cls(head)
        raise NeedsError(
            f"the head of a vocabulary is {type(head).__name__}",
            "torch.nn.Linear, a weight [V, D], or VocabularyHead",
            "give one",
        )

    def first(self, size: int) -> VocabularyHead:
        """The same head over its first `size` entries."""
        if size == self.weight.shape[0]:
            return self
        return VocabularyHead(self.weight[:size], None if self.bias is None else self.bias[:size], self.scale, self.softcap)

    def logits(self, hidden: Tensor) -> Tensor:
        """z of hidden states [N, D], [N, V], in at least 32 bits."""
        kind = torch.promote_types(hidden.dtype, self.weight.dtype)
        z = raise_precision(hidden.to(kind) @ self.weight.to(kind).T)
        if self.bias is not None:
            z += self.bias
        if self.scale != 1.0:
            z *= self.scale
        return z if self.softcap is None else z.div_(self.softcap).tanh_().mul_(self.softcap)

    def slope(self, z: Tensor) -> Tensor | float:
        """dz / d(h Wᵀ + b) at the logits z."""
        return self.scale if self.softcap is None else z.div(self.softcap).square_().neg_().add_(1).mul_(self.scale)
