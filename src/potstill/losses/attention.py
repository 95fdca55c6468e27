"""Attention losses: where a network looks, in feature maps or in attention heads.

Shapes: B batch, T tokens, H heads, D width, C channels; attention scores are [B, H, T, T], before the softmax and
without the padding mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from potstill.errors import NeedsError
from potstill.ground.precision import FLOOR, full_precision
from potstill.losses.layers import PairedLoss, loss_name, other_tokens
from potstill.losses.options import LAST_LAYER, LayerPair, one_of, positive
from potstill.losses.reduction import Reduction, divergence, over_rows

HEADS_CHOICES = ("auto", "match", "mean")


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
        mask: [B, T], true on real tokens.
        reduction: Over rows.
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
        mask: [B, T], true on real tokens.
        reduction: Over rows.
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
        reduction: Over rows.
    """
    log_p = _log_attention(teacher_scores, mask, average_heads)
    log_q = _log_attention(student_scores, mask, average_heads)
    return over_rows(divergence(log_p, log_q), None if mask is None else mask.bool()[:, None, :], reduction)


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
        layers: Pairs of (student, teacher) blocks.
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
