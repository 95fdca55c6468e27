"""Figures of a language model over learned tokens, batch by batch: loss, agreement with the teacher, calibration.

Shapes: B windows, T tokens, n learned tokens of a batch, V entries of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from potstill.contracts.answers import NO_LABEL
from potstill.contracts.signal import TeacherSignal
from potstill.losses.vocabulary import linear_divergence
from potstill.models.vocabulary_head import VocabularyHead

HIDDEN = "head.in"
BINS = 15
_TILE_LOGITS = 2**24


class TokenFigures:
    """Sums over the learned tokens of all batches that were shown; `figures` divides them.

    Args:
        has_teacher: Whether a teacher's hidden states are shown too.
    """

    def __init__(self, *, has_teacher: bool = False) -> None:
        self.has_teacher = has_teacher
        self.sums = torch.zeros(4, dtype=torch.float64)  # tokens, −log q(y), KL(p ‖ q), equal first choices
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)  # tokens, confidence, right

    def update(self, hidden: Tensor, head: VocabularyHead, targets: Tensor, teacher: TeacherSignal | None = None) -> None:
        """Take in a batch: hidden states [B, T, D] and targets [B, T], −100 where a token is not learned."""
        is_learned = targets != NO_LABEL
        if not is_learned.any():
            return
        rows, labels = hidden[is_learned].detach(), targets[is_learned]
        loss = linear_divergence(rows, head, labels, kind="ce", reduction="sum")
        counts = torch.zeros_like(self.sums)
        counts[0], counts[1] = len(labels), float(loss.detach())
        theirs = None
        if teacher is not None and teacher.head is not None:
            theirs = teacher.taps[HIDDEN][is_learned]
            counts[2] = float(linear_divergence(rows, head, (theirs, teacher.head), reduction="sum").detach())
        step = max(1, _TILE_LOGITS // len(head.weight))
        for start in range(0, len(labels), step):
            span = slice(start, start + step)
            confidence, choice = head.logits(rows[span]).softmax(-1).max(-1)
            self._place(confidence, choice == labels[span])
            if theirs is not None and teacher is not None:
                counts[3] += float((teacher.head.logits(theirs[span]).argmax(-1) == choice).sum())
        self.sums += counts

    def _place(self, confidence: Tensor, is_right: Tensor) -> None:
        places = (confidence * BINS).long().clamp(max=BINS - 1).cpu()
        for row, values in enumerate((torch.ones_like(confidence), confidence, is_right)):
            self.bins[row].scatter_add_(0, places, values.double().cpu())

    def tensor(self) -> Tensor:
        """All sums as one vector, to be added over ranks."""
        return torch.cat([self.sums, self.bins.flatten()])

    def load(self, values: Tensor) -> None:
        """Take the sums of all ranks."""
        self.sums, self.bins = values[:4].cpu(), values[4:].view(3, BINS).cpu()

    def figures(self, *, num_bytes: int | None = None) -> dict[str, float]:
        """``loss`` (nats a token), ``perplexity``, ``accuracy`` of the next token, ``ece``; with bytes ``bits_per_byte``; with a
        teacher ``teacher_kl`` (nats a token) and ``teacher_agreement``."""
        tokens, loss, divergence, equal = self.sums.tolist()
        if not tokens:
            return {}
        confidence, right = self.bins[1:]
        found = {
            "loss": loss / tokens,
            "perplexity": math.exp(min(loss / tokens, 700.0)),
            "accuracy": float(right.sum()) / tokens,
            "ece": float((confidence - right).abs().sum()) / tokens,
        }
        if num_bytes:
            found["bits_per_byte"] = loss / math.log(2) / num_bytes
        if self.has_teacher:
            found |= {"teacher_kl": divergence / tokens, "teacher_agreement": equal / tokens}
        return found


def batch_on(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors of a batch on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
