"""Losses on the tokens of a language: labels or a teacher's distributions, from hidden states and the head.

Shapes: B windows, T tokens, D width, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError
from potstill.losses.contract import IGNORED_LABEL, Loss, LossValue, StudentView
from potstill.losses.options import between, one_of, positive
from potstill.losses.vocabulary import KINDS, linear_divergence

HIDDEN = "head.in"


class TokenLoss(Loss):
    """Base of losses over the tokens of a batch that are learned: its ``targets`` [B, T], −100 where there is none."""

    kind: ClassVar[str] = "response"
    unit: ClassVar[str] = "tokens"

    def needs_student(self) -> tuple[str, ...]:
        return (HIDDEN,)

    def needs_batch(self) -> tuple[str, ...]:
        return ("targets",)

    def count(self, batch: Mapping[str, Any]) -> Tensor | float:
        return (batch["targets"] != IGNORED_LABEL).sum()


class TokenCE(TokenLoss):
    """Cross-entropy of the next token, −log q(y)."""

    def needs_teacher(self) -> tuple[str, ...]:
        return ()

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over the learned tokens."""
        total = linear_divergence(student.taps[HIDDEN], student.head, batch["targets"], kind="ce", reduction="sum")
        return LossValue(sum=total, count=self.count(batch))


class TokenDivergence(TokenLoss):
    """A divergence between the teacher's and the student's next-token distributions; see `functional.linear_divergence`.

    Args:
        divergence: kl, reverse_kl, jsd, skew_kl, skew_reverse_kl, tvd, or ce.
        beta: β of jsd.
        alpha: Share of the mixture in the skewed kinds.
        temperature: τ of both sides.
        vocab_size: Entries of both heads that stand for tokens of the tokenizer; None for the smaller head.
    """

    def __init__(
        self,
        *,
        divergence: str = "kl",
        beta: float = 0.5,
        alpha: float = 0.1,
        temperature: float = 1.0,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        self.divergence = one_of("divergence", divergence, KINDS)
        self.beta, self.alpha = between("beta", beta, 0, 1), between("alpha", alpha, 0, 1)
        self.temperature, self.vocab_size = positive("temperature", temperature), vocab_size

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over the learned tokens."""
        if teacher is None:
            raise NeedsError("a divergence from a teacher needs one, there is none", todo="give the trainer a teacher")
        target: Any = teacher.response if teacher.response is not None else (teacher.taps[HIDDEN], teacher.head)
        total = linear_divergence(
            student.taps[HIDDEN],
            student.head,
            target,
            kind=self.divergence,
            beta=self.beta,
            alpha=self.alpha,
            temperature=self.temperature,
            mask=batch["targets"] != IGNORED_LABEL,
            reduction="sum",
            vocab_size=self.vocab_size,
        )
        return LossValue(sum=total, count=self.count(batch))
