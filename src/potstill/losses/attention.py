"""Attention losses: where a network looks, in feature maps or in attention heads, and MiniLM's relations between tokens.

Shapes: B batch, T tokens, H heads, d width of a head, D width, C channels. Attention scores are [B, H, T, T], before the
softmax and without the padding mask; queries, keys and values are [B, H, T, d].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError
from potstill.ground.precision import FLOOR, full_precision
from potstill.losses.contract import LossValue, StudentView
from potstill.losses.layers import PairedLoss, loss_name, other_tokens
from potstill.losses.options import LAST_LAYER, LayerPair, one_of, positive
from potstill.losses.reduction import Reduction, divergence, over_rows

HEADS_CHOICES = ("auto", "match", "mean")
MOST_RELATION_HEADS = 48


@full_precision
def at(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    power: float = 2.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Attention transfer: mean over positions of (Q_s/‖Q_s‖ − Q_t/‖Q_t‖)² with Q = Σ_c |A_c|^p.

    Source: Zagoruyko and Komodakis 2017 (arXiv 1612.03928), eq. 2, in the form of its authors' code (mean of squares), to
    which the usual weight of 1000 belongs.

    Args:
        student_map: [B, C, H, W], or [B, T, D] where tokens are the positions.
        teacher_map: The same grid or tokens; the widths may differ.
        power: p.
    """
    difference = attention_map(student_map, power, mask) - attention_map(teacher_map, power, mask)
    return over_rows(difference.square(), mask, reduction)


def attention_map(values: Tensor, power: float, mask: Tensor | None) -> Tensor:
    """Σ over channels of |value|^p at every position, as a unit vector per row: [B, positions]."""
    summed = values.abs().pow(power).mean(1).flatten(1) if values.dim() == 4 else values.abs().pow(power).mean(-1)
    return F.normalize(summed if mask is None else summed.masked_fill(~mask.bool(), 0.0), dim=-1)


@full_precision
def tinybert_attention(
    student_scores: Tensor, teacher_scores: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared difference of pre-softmax attention scores over heads and real (query, key) pairs.

    Source: Jiao et al. 2020, TinyBERT (arXiv 1909.10351), eq. 7; pads are left out on both axes.

    Args:
        student_scores: [B, H, T, T].
        teacher_scores: The same shape.
    """
    return over_rows((student_scores - teacher_scores).square(), _pair_mask(mask), reduction)


@full_precision
def attention_kl(
    student_scores: Tensor,
    teacher_scores: Tensor,
    *,
    average_heads: bool = False,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Divergence of attention distributions: mean over heads and real queries of KL(softmax(t) ‖ softmax(s)).

    Source: Wang et al. 2020, MiniLM (arXiv 2002.10957).

    Args:
        student_scores: [B, H, T, T] pre-softmax.
        teacher_scores: [B, H, T, T]; another number of heads needs `average_heads`.
        average_heads: Whether to compare the mean distribution over heads instead of head by head.
        mask: [B, T], true on real tokens; pads get no attention and ask for none.
    """
    log_p = _log_attention(teacher_scores, mask, average_heads)
    log_q = _log_attention(student_scores, mask, average_heads)
    return over_rows(divergence(log_p, log_q), None if mask is None else mask.bool()[:, None, :], reduction)


@full_precision
def relation_kl(
    student_vectors: Tensor, teacher_vectors: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean over heads and real queries of KL(softmax(tᵢtⱼ/√d_t) ‖ softmax(sᵢsⱼ/√d_s)) between tokens.

    Source: Wang et al. 2020, MiniLM (arXiv 2002.10957).

    Args:
        student_vectors: [B, H, T, d].
        teacher_vectors: [B, H, T, d']; d' may differ from d.
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

    Source: Wang et al. 2020, MiniLM (arXiv 2002.10957). Scores as in `tinybert_attention`, values as in `relation_kl`.
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
    """
    student, teacher = (split_anew(values, relation_heads) for values in (student_vectors, teacher_vectors))
    return relation_kl(student, teacher, mask=mask, reduction=reduction)


def split_anew(values: Tensor, num_heads: int) -> Tensor:
    """[B, H, T, d] as [B, num_heads, T, H·d / num_heads]."""
    batch, heads, tokens, width = values.shape
    joined = values.transpose(1, 2).reshape(batch, tokens, num_heads, heads * width // num_heads)
    return joined.transpose(1, 2)


def _pair_mask(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else (mask.bool()[:, :, None] & mask.bool()[:, None, :]).unsqueeze(1)


def _log_attention(scores: Tensor, mask: Tensor | None, average_heads: bool) -> Tensor:
    if mask is not None:
        scores = scores.masked_fill(~mask.bool()[:, None, None, :], FLOOR)
    logs = F.log_softmax(scores.masked_fill(scores == float("-inf"), FLOOR), dim=-1)
    if not average_heads or logs.shape[1] == 1:
        return logs
    return logs.logsumexp(1, keepdim=True) - math.log(logs.shape[1])


class AttentionTransfer(PairedLoss):
    """Attention transfer between feature maps; see `functional.at`. Source: arXiv 1612.03928.

    Widths may differ and need no bridge; of two grids the smaller is taken.
    """

    kind: ClassVar[str] = "attention"
    ranks: ClassVar[tuple[int, ...]] = (3, 4)
    formula = staticmethod(at)

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER, power: float = 2.0) -> None:
        super().__init__(layers=layers)
        self.power = positive("power", power)


class HeadsLoss(PairedLoss):
    """Base of losses over values of attention heads [B, H, T, …] of the same tokens."""

    kind: ClassVar[str] = "attention"
    ranks: ClassVar[tuple[int, ...]] = (4,)

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        super().check(student_shape, teacher_shape, names)
        if student_shape[2] != teacher_shape[2]:
            raise other_tokens(self, names)


class ScoresLoss(HeadsLoss):
    """Base of losses over attention scores [B, H, T, T].

    Args:
        heads: "match" compares head by head, "mean" the mean over heads, "auto" matches where the numbers are equal.
    """

    roles: ClassVar[tuple[str, ...]] = ("attention",)

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER, heads: str = "auto") -> None:
        super().__init__(layers=layers)
        self.heads = one_of("heads", heads, HEADS_CHOICES)

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        super().check(student_shape, teacher_shape, names)
        if self.heads == "match" and student_shape[1] != teacher_shape[1]:
            raise NeedsError(
                f"{loss_name(self)}: {names} have {student_shape[1]} and {teacher_shape[1]} heads, and heads is match",
                "equal numbers of heads, or their mean",
                "set heads: mean",
            )

    def averages(self, student_scores: Tensor, teacher_scores: Tensor) -> bool:
        """Whether heads are averaged for these scores."""
        return self.heads == "mean" or (self.heads == "auto" and student_scores.shape[1] != teacher_scores.shape[1])


class TinyBertAttention(ScoresLoss):
    """Mean squared difference of attention scores; see `functional.tinybert_attention`. Source: arXiv 1909.10351."""

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        if self.averages(student_value, teacher_value):
            student_value, teacher_value = student_value.mean(1, keepdim=True), teacher_value.mean(1, keepdim=True)
        return tinybert_attention(student_value, teacher_value, mask=token_mask, reduction="sum")


class AttentionKL(ScoresLoss):
    """Divergence of attention distributions; see `functional.attention_kl`. Source: MiniLM (arXiv 2002.10957)."""

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        average = self.averages(student_value, teacher_value)
        return attention_kl(student_value, teacher_value, average_heads=average, mask=token_mask, reduction="sum")


class RolesLoss(HeadsLoss):
    """Base of losses that compare several roles (attention, query, key, value) of the same layers together."""

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Mean over pairs of layers of the sum over rows."""
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
