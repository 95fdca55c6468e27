"""What a source of knowledge returns for a batch.

Shapes: B batch, C classes, T tokens, D width, H heads, K kept entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from potstill.errors import NeedsError


@dataclass(frozen=True)
class DenseLogits:
    """Every logit of every class: `values` is [B, C] (or [B, T, C])."""

    values: Tensor
    kind: Literal["dense"] = "dense"


@dataclass(frozen=True)
class SparseLogits:
    """Some entries of a wide distribution, and what is known of the rest.

    `ids` and `log_probabilities` are [B, T, K]; `tail` is the probability [B, T] outside them
    (None where the scheme is sampled and so needs none).
    """

    ids: Tensor
    log_probabilities: Tensor
    tail: Tensor | None
    scheme: Literal["topk", "topp", "sampled"]
    kind: Literal["sparse"] = "sparse"


@dataclass(frozen=True)
class TeacherSignal:
    """The teacher's knowledge of one batch, tagged by what it holds.

    Args:
        response: The output distribution, dense or sparse, where it was asked for.
        taps: Intermediate values by need name (``"hidden:3"``, ``"attention:-1"``, ``"head.in"`` …).
        token_mask: [B, T], 1 on real tokens, for token models; None otherwise.
    """

    response: DenseLogits | SparseLogits | None = None
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    token_mask: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """Dense logits [B, C].

        Raises:
            NeedsError: The signal holds none.
        """
        if isinstance(self.response, DenseLogits):
            return self.response.values
        held = "sparse logits" if self.response is not None else "no logits"
        raise NeedsError(f"dense teacher logits are needed, the signal holds {held}")
