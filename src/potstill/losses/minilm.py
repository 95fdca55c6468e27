"""Self-attention relations of MiniLM: distributions between tokens, whatever the widths.

Shapes: B batch, T tokens, H heads, d width of a head; queries, keys and values are [B, H, T, d].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError
from potstill.ground.precision import full_precision
from potstill.losses.attention import HeadsLoss, attention_kl
from potstill.losses.contract import LossValue, StudentView
from potstill.losses.options import LAST_LAYER, LayerPair
from potstill.losses.reduction import Reduction

MOST_RELATION_HEADS = 48


@full_precision
def relation_kl(
    student_vectors: Tensor, teacher_vectors: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean over heads and real queries of KL(softmax(tᵢtⱼ/√d_t) ‖ softmax(sᵢsⱼ/√d_s)) between tokens.

    Source: Wang et al. 2020, MiniLM (arXiv 2002.10957).

    Args:
        student_vectors: [B, H, T, d].
        teacher_vectors: [B, H, T, d']; d' may differ from d.
        mask: [B, T], true on real tokens.
        reduction: Over rows.
    """
    scores = [values @ values.transpose(-1, -2) / math.sqrt(values.shape[-1]) for values in (student_vectors, teacher_vectors)]
    return attention_kl(scores[0], scores[1], mask=mask, reduction=reduction)


@full_precision
def minilm(
    student_scores: Tensor,
    teacher_scores: Tensor,
    student_values: Tensor,
    teacher_values: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Attention distributions and value relations of one layer: the sum of both divergences.

    Source: Wang et al. 2020, MiniLM (arXiv 2002.10957).

    Args:
        student_scores: [B, H, T, T], before the softmax.
        teacher_scores: The same shape.
        student_values: [B, H, T, d].
        teacher_values: [B, H, T, d'].
        mask: [B, T], true on real tokens.
        reduction: Over rows.
    """
    attention = attention_kl(student_scores, teacher_scores, mask=mask, reduction=reduction)
    return attention + relation_kl(student_values, teacher_values, mask=mask, reduction=reduction)


@full_precision
def minilm_v2(
    student_vectors: Tensor,
    teacher_vectors: Tensor,
    *,
    relation_heads: int,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Relations of one kind (queries, keys or values) with heads joined and split anew, so that their numbers may differ.

    Source: Wang et al. 2021, MiniLMv2 (arXiv 2012.15828).

    Args:
        student_vectors: [B, H, T, d].
        teacher_vectors: [B, H', T, d'].
        relation_heads: A_r, which divides H·d and H'·d'.
        mask: [B, T], true on real tokens.
        reduction: Over rows.
    """
    student, teacher = (split_anew(values, relation_heads) for values in (student_vectors, teacher_vectors))
    return relation_kl(student, teacher, mask=mask, reduction=reduction)


def split_anew(values: Tensor, num_heads: int) -> Tensor:
    """[B, H, T, d] as [B, num_heads, T, H·d / num_heads]."""
    batch, heads, tokens, width = values.shape
    joined = values.transpose(1, 2).reshape(batch, tokens, num_heads, heads * width // num_heads)
    return joined.transpose(1, 2)


class RolesLoss(HeadsLoss):
    """Base of losses that compare several roles (attention, query, key, value) of the same layers together."""

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Mean over pairs of layers of the sum over rows."""
        del batch
        found, count = self.pairs(student, teacher), len(self.roles)
        layers = [zip(*found[start : start + count]) for start in range(0, len(found), count)]
        terms = [self.together(own, theirs, student.token_mask) for own, theirs in layers]
        return LossValue(sum=torch.stack(terms).mean(), count=float(student.logits.shape[0]))

    def together(self, student_values: Sequence[Tensor], teacher_values: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Sum over rows for one pair of layers, one value for each role."""
        raise TypeError(f"{type(self).__name__} does not define together")


class MiniLM(RolesLoss):
    """Attention and value relations of the last layer; see `functional.minilm`. Source: MiniLM (arXiv 2002.10957)."""

    roles: ClassVar[tuple[str, ...]] = ("attention", "value")

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        super().check(student_shape, teacher_shape, names)
        if student_shape[1] != teacher_shape[1]:
            raise NeedsError(
                f"minilm: {names} have {student_shape[1]} and {teacher_shape[1]} heads",
                "equal numbers of heads",
                "take the loss minilm_v2, which splits heads anew",
            )

    def together(self, student_values: Sequence[Tensor], teacher_values: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        return minilm(student_values[0], teacher_values[0], student_values[1], teacher_values[1], mask=mask, reduction="sum")


class MiniLMv2(RolesLoss):
    """Relations of queries, keys and values, summed; see `functional.minilm_v2`. Source: MiniLMv2 (arXiv 2012.15828).

    Args:
        layers: Pairs of (student, teacher) blocks; the last by default.
        relation_heads: A_r; 0 takes the largest number up to 48 that divides both widths.
    """

    roles: ClassVar[tuple[str, ...]] = ("query", "key", "value")

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER, relation_heads: int = 0) -> None:
        super().__init__(layers=layers)
        self.relation_heads = relation_heads

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        super().check(student_shape, teacher_shape, names)
        widths = student_shape[1] * student_shape[3], teacher_shape[1] * teacher_shape[3]
        if self.relation_heads and any(width % self.relation_heads for width in widths):
            raise NeedsError(
                f"minilm_v2: {self.relation_heads} relation heads do not divide the widths {widths[0]} and {widths[1]}",
                f"a divisor of {math.gcd(*widths)}",
                f"set relation_heads: {largest_divisor(math.gcd(*widths))}",
            )

    def together(self, student_values: Sequence[Tensor], teacher_values: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        widths = [values[0].shape[1] * values[0].shape[3] for values in (student_values, teacher_values)]
        heads = self.relation_heads or largest_divisor(math.gcd(*widths))
        terms = [
            minilm_v2(own, other, relation_heads=heads, mask=mask, reduction="sum")
            for own, other in zip(student_values, teacher_values)
        ]
        return torch.stack(terms).sum()


def largest_divisor(width: int) -> int:
    """The largest divisor of `width` that is at most 48."""
    return max(divisor for divisor in range(1, MOST_RELATION_HEADS + 1) if width % divisor == 0)
