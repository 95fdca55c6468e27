"""Classes drawn from the teacher, with their counts.

Shapes: B batch, T tokens (or units), C classes, K draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from potstill.ground.precision import FLOOR, full_precision, log_probabilities
from potstill.knowledge.responses.tensors import PartialResponse, checked_count


@dataclass(frozen=True)
class Samples(PartialResponse):
    """K classes drawn with replacement from the teacher at one temperature.

    With p̂ the shares of the draws, KL(p̂ ‖ q) = −Σ p̂ log q − H(p̂). Its gradient by the student is that of −Σ p̂ log q, whose
    expectation over draws is the gradient of KL(p ‖ q): unbiased, where a head cut off at K entries is not. Its value is on
    average larger than KL(p ‖ q) by H(p) − E H(p̂), which does not depend on the student. Only the forward direction can be
    computed: classes that were not drawn say nothing of the student's probabilities there.

    Source: Anshumann et al. 2025, Sparse Logit Sampling (arXiv 2503.16870), draws from p itself.

    Args:
        ids: [B, K] or [B, T, K] int64, each drawn class once, then places of count 0.
        temperature: τ of the distribution that they were drawn from.
        num_classes: C.
        counts: How often each was drawn, in the shape of `ids`.
    """

    name: ClassVar[str] = "samples"
    counts: Tensor

    @classmethod
    def of(cls, logits: Tensor, *, seed: int = 0, draws: int = 64, temperature: float = 1.0) -> Self:
        """Draws for each row or token; the same seed draws the same."""
        p = log_probabilities(logits, temperature).exp()
        draws, generator = checked_count("draws", draws), torch.Generator(p.device).manual_seed(seed)
        drawn = torch.multinomial(p.flatten(0, -2), draws, replacement=True, generator=generator).sort(-1).values
        is_first = torch.ones_like(drawn, dtype=torch.bool)
        is_first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
        place = is_first.cumsum(-1) - 1
        ids = torch.zeros_like(drawn).scatter_(-1, place, drawn)
        counts = torch.zeros_like(drawn).scatter_add_(-1, place, torch.ones_like(drawn))
        shape = (*p.shape[:-1], draws)
        return cls(ids.view(shape), float(temperature), p.shape[-1], counts.view(shape))

    @full_precision
    def aligned(self, student_logits: Tensor, temperature: float | Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Over the drawn classes; the student's probabilities over them sum to at most 1."""
        self.check(student_logits, temperature)
        shares = self.counts / self.counts.sum(-1, keepdim=True).clamp(min=1)
        log_p = torch.where(self.counts > 0, shares.clamp(min=1e-30).log(), FLOOR)
        return log_p, log_probabilities(student_logits, temperature, mask).gather(-1, self.ids)
