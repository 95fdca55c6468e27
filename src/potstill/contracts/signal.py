"""What a source of knowledge returns for a batch.

Shapes: B batch, C classes, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from potstill.contracts.response import Response
from potstill.errors import NeedsError


@dataclass(frozen=True)
class TeacherSignal:
    """The teacher's knowledge of one batch.

    Args:
        response: What it answers, in one of several kinds, where that was asked for.
        taps: Intermediate values by need name (``"hidden:3"``, ``"attention:-1"``, ``"head.in"`` …).
        token_mask: [B, T], 1 on real tokens, for token models; None otherwise.
        head: Of a language model whose hidden states are among the taps: its last layer, which makes logits of them.
    """

    response: Response | None = None
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    token_mask: Tensor | None = None
    head: Any = None

    @property
    def logits(self) -> Tensor:
        """Every logit, [B, C] or [B, T, C].

        Raises:
            NeedsError: The signal holds no response, or one of a kind without every logit.
        """
        if self.response is None:
            raise NeedsError("the teacher's logits are needed, the signal holds none", "a signal with 'logits' among its needs")
        return self.response.logits
