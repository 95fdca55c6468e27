"""Contrast of embeddings with the rows of a memory: value and gradient in one pass, without a copy of [B, K, E].

Shapes: B batch, E width of the embedding, N rows of the memory, K negatives per row of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Scores held at a time, shared negatives and own ones: what a core keeps in its cache, or what fills a GPU.
SHARED_SCORES, OWN_SCORES = 2**17, 2**21
GPU_FACTOR = 16


@dataclass(frozen=True)
class Draw:
    """Which rows of a memory a batch is contrasted with.

    Args:
        rows: [B], the own row of each member of the batch, its positive.
        negatives: [K] drawn once for the whole batch, out of all N rows; or [B, K], for each member out of the N − 1 others.
        hits: [B], how often each own row is among shared negatives; None where the negatives are not shared.
        classes: The class of each member [B] and of each negative ([K], or [B, K]), below 0 where it is not known; negatives of a
            member's own class do not count for it. None where no class is known.
    """

    rows: Tensor
    negatives: Tensor
    hits: Tensor | None
    classes: tuple[Tensor, Tensor] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether all members of the batch have the same negatives."""
        return self.hits is not None

    def among_classes(self, own: Tensor, of_rows: Tensor) -> Draw:
        """The same draw without negatives of a member's own class; `own` [B] and `of_rows` [N] are below 0 where not known."""
        return replace(self, classes=(torch.where(own < 0, -2, own), of_rows[self.negatives].clamp(min=-1)))

    def excluded(self, members: slice, chosen: slice) -> Tensor | None:
        """Which negatives do not count for which members, [b, k]: those of their class, and their own row among shared ones."""
        if self.classes is None:
            return None
        own, others = self.classes
        if not self.is_shared:
            return own[members].unsqueeze(1) == others[members]
        is_excluded = own[members].unsqueeze(1) == others[chosen]
        return is_excluded.logical_or_(self.rows[members].unsqueeze(1) == self.negatives[chosen])


def draw_shared(rows: Tensor, num_negatives: int, num_rows: int) -> Draw:
    """K rows for the whole batch, uniformly out of all N."""
    negatives = torch.randint(num_rows, (num_negatives,), device=rows.device)
    return shared_draw(rows, negatives, num_rows)


def shared_draw(rows: Tensor, negatives: Tensor, num_rows: int) -> Draw:
    """The draw of given shared negatives [K]."""
    counts = torch.zeros(num_rows, dtype=torch.int64, device=rows.device)
    counts.scatter_add_(0, negatives, torch.ones_like(negatives))
    return Draw(rows, negatives, counts.index_select(0, rows))


def draw_for_each(rows: Tensor, num_negatives: int, num_rows: int) -> Draw:
    """K rows for each member of the batch, uniformly out of the N − 1 others."""
    drawn = torch.randint(max(num_rows - 1, 1), (len(rows), num_negatives), device=rows.device)
    return Draw(rows, (drawn + (drawn >= rows.unsqueeze(1))).clamp(max=num_rows - 1), None)


def memory_contrast(embedding: Tensor, memory: Tensor, draw: Draw, *, temperature: float, log_constant: Tensor) -> Tensor:
    """Sum over the batch of −log h(x₊) − Σ_K log(1 − h(x₋)), h(x) = x / (x + K/N), log x = ⟨e, m⟩/τ − log Z.

    Equals `functional.crd` on the gathered scores where every member has its own negatives. Negatives that are shared hit
    the own row now and then; those are taken out again and the rest scaled by N/(N−1), so that value and gradient have the
    expectation of negatives drawn for each member out of the other rows. Where classes are known, the negatives of a member's own
    class are taken out and the rest scaled to K again: the expectation of K negatives of other classes. A member without any is
    contrasted with none.
    The memory gets no gradient and may change before the backward pass, because the gradient is computed in the forward.
    Source: Tian et al. 2020 (arXiv 1910.10699), section 3, for negatives of each member.

    Args:
        embedding: [B, E], of length one.
        memory: [N, E].
        draw: Positives and negatives.
        temperature: τ.
        log_constant: log Z, a scalar tensor.
    """
    return _Contrast.apply(embedding, memory, draw, temperature, log_constant)  # type: ignore[no-untyped-call,no-any-return]


def log_normaliser(embedding: Tensor, memory: Tensor, draw: Draw, *, temperature: float) -> Tensor:
    """log Z that makes the mean score of positives and negatives 1/N."""
    own = (embedding * memory.index_select(0, draw.rows)).sum(1, keepdim=True) / temperature
    parts = [torch.logsumexp(own.flatten(), 0)]
    if draw.hits is not None:
        for chosen in draw.negatives.split(block_size(SHARED_SCORES, len(embedding), embedding)):
            scores = embedding @ memory.index_select(0, chosen).T / temperature
            parts.append(torch.logsumexp(scores.flatten(), 0))
    else:
        size = block_size(OWN_SCORES, len(memory), embedding)
        for members, chosen in zip(embedding.split(size), draw.negatives.split(size)):
            scores = (members @ memory.T).gather(1, chosen) / temperature
            parts.append(torch.logsumexp(scores.flatten(), 0))
    count = len(embedding) * (draw.negatives.shape[-1] + 1)
    return torch.logsumexp(torch.stack(parts), 0) + math.log(len(memory) / count)


class _Contrast(torch.autograd.Function):
    """`memory_contrast`, its gradient kept as one [B, E]."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, embedding: Tensor, memory: Tensor, draw: Draw, temperature: float, log_constant: Tensor
    ) -> Tensor:
        bias = math.log(draw.negatives.shape[-1] / len(memory))
        own = memory.index_select(0, draw.rows)
        positive = (embedding * own).sum(1) / temperature - log_constant - bias
        total, slope = F.softplus(-positive).sum(), -torch.sigmoid(-positive)
        sums = _shared if draw.is_shared else _for_each
        negatives, gradient = sums(embedding, memory, draw, temperature, log_constant + bias)
        if draw.hits is not None and draw.classes is None:
            share = len(memory) / max(len(memory) - 1, 1)
            hits = share * draw.hits.to(positive.dtype)
            negatives = share * negatives - (hits * F.softplus(positive)).sum()
            gradient.mul_(share)
            slope = slope - hits * torch.sigmoid(positive)
        gradient.addcmul_(slope.unsqueeze(1), own).div_(temperature)
        ctx.save_for_backward(gradient)
        return total + negatives

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None, None


def _shared(embedding: Tensor, memory: Tensor, draw: Draw, temperature: float, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Σ softplus(score − shift) over [B, K], and its gradient [B, E] times τ."""
    totals, gradient, scaled = embedding.new_zeros(len(embedding)), torch.zeros_like(embedding), embedding / temperature
    num_excluded, size = torch.zeros_like(totals), block_size(SHARED_SCORES, len(embedding), embedding)
    for start in range(0, len(draw.negatives), size):
        chosen = slice(start, start + size)
        rows = memory.index_select(0, draw.negatives[chosen])
        logits = (scaled @ rows.T).sub_(shift)
        if (is_excluded := draw.excluded(slice(None), chosen)) is not None:
            num_excluded += is_excluded.sum(1)
            logits.masked_fill_(is_excluded, -torch.inf)
        totals += F.softplus(logits).sum(1)
        gradient.addmm_(logits.sigmoid_(), rows)
    return _of_all_negatives(totals, gradient, num_excluded, draw)


def _for_each(embedding: Tensor, memory: Tensor, draw: Draw, temperature: float, shift: Tensor) -> tuple[Tensor, Tensor]:
    """As `_shared`, for [B, K] places: all N scores of some members at a time, of which the drawn ones are gathered."""
    totals, gradient, scaled = embedding.new_zeros(len(embedding)), torch.empty_like(embedding), embedding / temperature
    num_excluded, size = torch.zeros_like(totals), block_size(OWN_SCORES, len(memory), embedding)
    for start in range(0, len(embedding), size):
        members = slice(start, start + size)
        chosen = draw.negatives[members]
        scores = scaled[members] @ memory.T
        logits = scores.gather(1, chosen).sub_(shift)
        if (is_excluded := draw.excluded(members, slice(None))) is not None:
            num_excluded[members] = is_excluded.sum(1).to(num_excluded.dtype)
            logits.masked_fill_(is_excluded, -torch.inf)
        totals[members] = F.softplus(logits).sum(1)
        torch.mm(scores.zero_().scatter_add_(1, chosen, logits.sigmoid_()), memory, out=gradient[members])
    return _of_all_negatives(totals, gradient, num_excluded, draw)


def _of_all_negatives(totals: Tensor, gradient: Tensor, num_excluded: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """The sum and its gradient, those of each member scaled from the negatives that count to all K."""
    if draw.classes is None:
        return totals.sum(), gradient
    num_negatives = draw.negatives.shape[-1]
    scale = num_negatives / (num_negatives - num_excluded).clamp(min=1)
    return (totals * scale).sum(), gradient.mul_(scale.unsqueeze(1))


def block_size(entries: int, width: int, values: Tensor) -> int:
    """Rows of `width` entries to hold at a time, out of the entries that a CPU is given; at least one."""
    return max(1, (entries if values.device.type == "cpu" else entries * GPU_FACTOR) // max(width, 1))
