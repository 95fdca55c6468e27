"""The largest entries of a wide distribution at one temperature, and the rest as one entry.

Shapes: B batch, T tokens (or units), C classes, K entries kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from potstill.ground.precision import FLOOR, full_precision, log_probabilities
from potstill.knowledge.responses.tensors import PartialResponse, checked_count


@dataclass(frozen=True)
class HeadAndTail(PartialResponse):
    """The K most likely classes, and the probability of all others together.

    A divergence over these K + 1 entries is at most that over all C classes (the data processing inequality), and equal to it
    at K = C. How far it is below depends on how much of *both* distributions lies in the head: forward KL loses little, because
    the teacher's mass is there; a reverse KL would be far below where the student's mass is elsewhere.

    Args:
        ids: [B, K] or [B, T, K] int64, the most likely class first.
        temperature: τ at which all of them are probabilities.
        num_classes: C.
        log_probabilities: Of these classes, in the shape of `ids`.
        tail: Log-probability of the rest, [B] or [B, T].
    """

    name: ClassVar[str] = "head_and_tail"
    log_probabilities: Tensor
    tail: Tensor

    @classmethod
    def of(cls, logits: Tensor, *, seed: int = 0, entries: int = 64, temperature: float = 1.0) -> Self:
        """The head of every logit; `entries` above C keep all."""
        log_p = log_probabilities(logits, temperature)
        head, ids = log_p.topk(min(checked_count("entries", entries), log_p.shape[-1]), dim=-1)
        return cls(ids, float(temperature), log_p.shape[-1], head.clamp(min=FLOOR), _others(log_p, ids).clamp(min=FLOOR))

    @full_precision
    def aligned(self, student_logits: Tensor, temperature: float | Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Over the K classes and the rest."""
        self.check(student_logits, temperature)
        log_p = torch.cat([self.log_probabilities, self.tail.unsqueeze(-1)], -1)
        log_q = log_probabilities(student_logits, temperature, mask)
        log_q = torch.cat([log_q.gather(-1, self.ids), _others(log_q, self.ids).unsqueeze(-1)], -1)
        return log_p if mask is None else log_p.masked_fill(~mask.bool().unsqueeze(-1), 0.0), log_q


def _others(log_p: Tensor, ids: Tensor) -> Tensor:
    """log of the probability of all classes but `ids`, without subtracting probabilities."""
    return log_p.scatter(-1, ids, 10 * FLOOR).logsumexp(-1)
