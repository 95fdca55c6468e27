"""Divergences over a vocabulary, computed from hidden states and heads without holding the matrix of logits.

Shapes: N tokens, D width of the hidden states, V entries of the vocabulary, K entries of a sparse response. p is the teacher's
distribution at temperature τ, q the student's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from potstill.errors import NeedsError
from potstill.ground.precision import FLOOR, finite
from potstill.knowledge.responses.head_and_tail import HeadAndTail
from potstill.knowledge.responses.samples import Samples
from potstill.losses.contract import IGNORED_LABEL
from potstill.losses.options import between, one_of, positive
from potstill.losses.reduction import Reduction
from potstill.models.vocabulary_head import VocabularyHead

TILE = {"cpu": 2**22}  # logits of a tile; of other devices:
WIDE_TILE = 2**27
FEWEST_TOKENS = 64

KINDS = ("kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd", "ce")
OF_SAMPLES = ("kl", "ce")

Target = tuple[Tensor, Any] | HeadAndTail | Samples | Tensor


def linear_divergence(
    student_hidden: Tensor,
    student_head: Any,
    target: Target,
    *,
    kind: str = "kl",
    beta: float = 0.5,
    alpha: float = 0.1,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    vocab_size: int | None = None,
) -> Tensor:
    """A divergence between next-token distributions, from hidden states and heads, in tiles of tokens.

    Value and gradients of `student_hidden` and of the student's head are those of the dense form: of ``functional.<kind>`` on
    ``head(hidden)``, with its factor τ² (τ for tvd). No more than a tile of logits is held at a time, and sums are in 32 bits
    whatever the models compute in. Where a scalar is asked for, the gradients are computed in the same pass over the tiles as
    the value, so the logits of a tile are computed once; with "none" they are computed again in the backward pass.

    Source: the tiles are those of fused linear losses (Hsu et al. 2024, Liger Kernel, arXiv 2410.10989), the kinds those of
    GKD (arXiv 2306.13649), DistiLLM (arXiv 2402.03898) and f-distillation (arXiv 2307.15190); jsd is divided by β(1−β).

    Args:
        student_hidden: [N, D] or [B, T, D], what the student's head reads.
        student_head: A ``torch.nn.Linear``, its weight [V, D], or a `VocabularyHead`.
        target: What it is compared with. A pair (teacher_hidden, teacher_head), whose width may be another; a response
            `Samples` or `HeadAndTail` with the leading axes of the hidden states; or token ids, int64, of which −100 carries no
            loss.
        kind: kl (forward), reverse_kl, jsd, skew_kl, skew_reverse_kl, tvd, or ce: −log q(y) of token ids, −τ² Σ p log q of the
            other targets.
        beta: β of jsd, from 0 (forward KL) to 1 (reverse KL).
        alpha: Share of the mixture in the skewed kinds.
        temperature: τ of both sides; 1 with token ids; a response has the one at which it was kept.
        mask: [N] or [B, T], true on the tokens that count; the others cost nothing.
        reduction: "mean" and "sum" over the tokens that count; "none" gives one value per token, 0 where it does not count.
        vocab_size: Entries of both heads that stand for tokens; those above are left out of both distributions. None for the
            smaller of the two heads: heads of one tokenizer that were padded to different sizes.

    Returns:
        A scalar, or [N] or [B, T]; float32, or float64 where the hidden states are.

    Raises:
        RecipeError: An unknown kind or reduction, or an option out of range.
        NeedsError: Shapes that do not fit each other, or a kind that a response does not hold enough for.

    Example:
        >>> h, w = torch.ones(3, 2), torch.eye(2)
        >>> float(linear_divergence(h, w, (h, w)))
        0.0
    """
    one_of("kind", kind, KINDS)
    one_of("reduction", reduction, ("none", "sum", "mean"))
    options = _Options(kind, between("beta", beta, 0, 1), between("alpha", alpha, 0, 1), positive("temperature", temperature))
    head, shape = VocabularyHead.of(student_head), student_hidden.shape[:-1]
    if student_hidden.shape[-1] != head.weight.shape[-1]:
        raise NeedsError(
            f"the hidden states have width {student_hidden.shape[-1]}, the student's head reads {head.weight.shape[-1]}",
            "the width that the head reads",
            "give the hidden states that go into this head",
        )
    counted = torch.ones(shape, dtype=torch.bool, device=student_hidden.device) if mask is None else mask.bool()
    _same_tokens("mask", counted.shape, shape)
    if isinstance(target, Tensor):
        _same_tokens("target", target.shape, shape)
        counted = counted & (target != IGNORED_LABEL)
    places = counted.flatten().nonzero().squeeze(-1)
    part, size = _part_of(target, options, shape, places, head, vocab_size)
    head, hidden = head.first(size), student_hidden.flatten(0, -2)
    if len(places) < len(hidden):
        hidden = hidden[places]
    bias = head.bias if head.bias is not None else hidden.new_zeros(0)
    work = _Work(head.scale, head.softcap, part, reduction != "none" and torch.is_grad_enabled())
    with torch.autocast(hidden.device.type, enabled=False):
        values = _Tiled.apply(hidden, head.weight, bias, work)
    if reduction == "none":
        return values.new_zeros(math.prod(shape)).index_put((places,), values).view(shape)
    total = values if work.is_summed else values.sum()
    return total / max(len(places), 1) if reduction == "mean" else total


class _Options(NamedTuple):
    kind: str
    beta: float
    alpha: float
    temperature: float


class _Work(NamedTuple):
    """What a pass over the tiles needs besides tensors with gradients; `is_summed` asks for the sum and its gradients at once."""

    scale: float
    softcap: float | None
    part: _Part
    is_summed: bool


def _same_tokens(name: str, given: torch.Size, shape: torch.Size) -> None:
    if given != shape:
        raise NeedsError(
            f"{name} is of {list(given)} tokens, the hidden states are of {list(shape)}",
            "the same tokens",
            f"give {name} of that shape",
        )


# What a target says of a tile: values and gradients of the logits.


class _Part:
    """One kind of target, at the tokens that count.

    `of` takes a tile's places and the student's logits z [n, V], already divided by τ, which it may overwrite; it returns the
    values [n] and, where `wants_gradient`, the gradient by z [n, V]. Both lack the factor `scale`.
    """

    def __init__(self, options: _Options) -> None:
        self.options = options
        tau = options.temperature
        self.scale = tau if options.kind == "tvd" else tau**2

    def of(self, tile: slice, z: Tensor, *, wants_gradient: bool) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


class _TokenIds(_Part):
    def __init__(self, options: _Options, ids: Tensor) -> None:
        super().__init__(options)
        self.ids = ids

    def of(self, tile: slice, z: Tensor, *, wants_gradient: bool) -> tuple[Tensor, Tensor | None]:
        ids = self.ids[tile].unsqueeze(-1)
        total = z.logsumexp(-1, keepdim=True)
        values = (total - z.gather(-1, ids)).squeeze(-1)
        if not wants_gradient:
            return values, None
        return values, z.sub_(total).exp_().scatter_add_(-1, ids, -torch.ones_like(total))


class _Draws(_Part):
    """Samples: Σ p̂ (log p̂ − log q), of which only the drawn entries of q and its normaliser are read."""

    def __init__(self, options: _Options, response: Samples, places: Tensor) -> None:
        super().__init__(options)
        self.ids, counts = (_at(each, places) for each in (response.ids, response.counts))
        self.shares = counts / counts.sum(-1, keepdim=True).clamp(min=1)

    def of(self, tile: slice, z: Tensor, *, wants_gradient: bool) -> tuple[Tensor, Tensor | None]:
        ids, shares = self.ids[tile], self.shares[tile].to(z.dtype)
        total = z.logsumexp(-1, keepdim=True)
        values = (shares * (total - z.gather(-1, ids))).sum(-1)
        if self.options.kind == "kl":
            values = values + torch.xlogy(shares, shares).sum(-1)
        if not wants_gradient:
            return values, None
        return values, z.sub_(total).exp_().mul_(shares.sum(-1, keepdim=True)).scatter_add_(-1, ids, -shares)


class _Head(_Part):
    """The most likely entries and the rest as one: the divergence over these K + 1 entries."""

    def __init__(self, options: _Options, response: HeadAndTail, places: Tensor) -> None:
        super().__init__(options)
        self.ids = _at(response.ids, places)
        self.log_p = torch.cat([_at(response.log_probabilities, places), _at(response.tail.unsqueeze(-1), places)], -1)

    def of(self, tile: slice, z: Tensor, *, wants_gradient: bool) -> tuple[Tensor, Tensor | None]:
        ids, log_p = self.ids[tile], self.log_p[tile].to(z.dtype)
        total, kept = z.logsumexp(-1, keepdim=True), z.gather(-1, ids)
        rest = z.scatter_(-1, ids, 10 * FLOOR).logsumexp(-1, keepdim=True)
        log_q = torch.cat([kept, rest], -1) - total
        values, weighted = _compare(self.options, log_p, log_q)
        if not wants_gradient:
            return values, None
        total_weight = weighted.sum(-1, keepdim=True)
        of_rest = weighted[..., -1:] * (total - rest).clamp(max=80).exp() - total_weight  # each entry of the rest has its share
        gradient = z.sub_(total).exp_().mul_(of_rest)
        return values, gradient.scatter_(-1, ids, weighted[..., :-1] - (kept - total).exp() * total_weight)


class _Dense(_Part):
    def __init__(self, options: _Options, hidden: Tensor, head: VocabularyHead) -> None:
        super().__init__(options)
        self.hidden, self.head = hidden, head

    def of(self, tile: slice, z: Tensor, *, wants_gradient: bool) -> tuple[Tensor, Tensor | None]:
        teacher = self.head.logits(self.hidden[tile]).to(z.dtype).div_(self.options.temperature)
        log_p = teacher.sub_(teacher.logsumexp(-1, keepdim=True)).clamp_(min=10 * FLOOR)
        log_q = z.sub_(z.logsumexp(-1, keepdim=True))
        values, weighted = _compare(self.options, log_p, log_q)
        if not wants_gradient:
            return values, None
        return values, weighted.sub_(log_q.exp_().mul_(weighted.sum(-1, keepdim=True)))


def _compare(options: _Options, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Values [n] of a divergence D over the last axis, and q · dD/dq of its entries up to a multiple of q, which cancels."""
    kind = options.kind
    if kind == "jsd" and options.beta in (0, 1):
        kind = "kl" if options.beta == 0 else "reverse_kl"
    p = log_p.exp()
    if kind in ("kl", "ce"):
        values = -(p * log_q).sum(-1) if kind == "ce" else (p * (log_p - log_q)).sum(-1)
        return values, p.neg_()
    q = log_q.exp()
    if kind == "reverse_kl":
        weighted = q.mul_(log_q - log_p)
        return weighted.sum(-1), weighted
    if kind == "tvd":
        return 0.5 * (p - q).abs().sum(-1), 0.5 * q * (q - p).sign()
    share = {"jsd": options.beta, "skew_kl": options.alpha, "skew_reverse_kl": 1 - options.alpha}[kind]  # of p in the mixture
    log_m = torch.logaddexp(log_p + _log(share), log_q + _log(1 - share))
    if kind == "skew_kl":
        return (p * (log_p - log_m)).sum(-1), -(1 - share) * (log_p + log_q - log_m).exp()
    weighted = q * (log_q - log_m)
    of_q = weighted.sum(-1)
    if kind == "skew_reverse_kl":
        return of_q, weighted.sub_((1 - share) * (2 * log_q - log_m).exp())
    of_p = (p * (log_p - log_m)).sum(-1)
    return (share * of_p + (1 - share) * of_q) / (share * (1 - share)), weighted.div_(share)


def _log(share: float) -> float:
    return math.log(share) if share > 0 else 10 * FLOOR


# The pass over the tiles.


class _Tiled(torch.autograd.Function):
    """Hidden states [N, D], weight [V, D], bias [V] or [0] → values [N], or their sum."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, work: _Work) -> Tensor:
        ctx.work, ctx.gradients = work, None
        ctx.save_for_backward(hidden, weight, bias)
        if not work.is_summed:
            return _pass(hidden, weight, bias, work, None, (False, False, False))[0]
        ones = torch.ones(len(hidden), dtype=_precision(hidden), device=hidden.device)
        values, ctx.gradients = _pass(hidden, weight, bias, work, ones, ctx.needs_input_grad[:3])
        return values.sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        (outer,) = upstream
        found, ctx.gradients = ctx.gradients, None
        if found is not None:
            found = [None if each is None else each.mul_(outer) for each in found]
        else:  # none were asked for at once, or they were used up by an earlier backward pass
            found = _pass(hidden, weight, bias, ctx.work, outer.expand(len(hidden)), ctx.needs_input_grad[:3])[1]
        kinds = (hidden.dtype, weight.dtype, bias.dtype)
        return (*(None if each is None else each.to(kind) for each, kind in zip(found, kinds, strict=True)), None)


def _pass(
    hidden: Tensor, weight: Tensor, bias: Tensor, work: _Work, outer: Tensor | None, wanted: tuple[bool, ...]
) -> tuple[Tensor, list[Tensor | None]]:
    """Values of all tokens, and the gradients of hidden states, weight and bias where `outer` [N] weighs the tokens' values."""
    head = VocabularyHead(weight.detach(), bias.detach() if len(bias) else None, work.scale, work.softcap)
    kind = _precision(hidden)
    tau, factor, wants_gradient = work.part.options.temperature, work.part.scale, outer is not None and any(wanted)
    values = torch.empty(len(hidden), dtype=kind, device=hidden.device)
    sums = [
        torch.zeros(each.shape, dtype=kind, device=hidden.device) if want else None
        for each, want in zip((hidden, weight, bias), wanted, strict=True)
    ]
    narrow = hidden.dtype if hidden.dtype == weight.dtype else kind
    for tile in _tiles(len(hidden), len(weight), hidden.device.type):
        rows = hidden[tile].detach()
        z = finite(head.logits(rows))
        slope = head.slope(z) if wants_gradient else 1.0
        found, gradient = work.part.of(tile, z.div_(tau) if tau != 1.0 else z, wants_gradient=wants_gradient)
        values[tile] = found * factor
        if gradient is None or outer is None:
            continue
        gradient.mul_((outer[tile] * (factor / tau)).unsqueeze(-1)).mul_(slope)
        if sums[2] is not None and len(bias):
            sums[2] += gradient.sum(0)
        gradient = gradient.to(narrow)
        if sums[0] is not None:
            sums[0][tile] = gradient @ weight.to(narrow)
        if sums[1] is not None:
            _add_product(sums[1], gradient, rows.to(narrow))
    return values, sums


def _precision(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


def _add_product(total: Tensor, gradient: Tensor, rows: Tensor) -> None:
    """total += gradientᵀ rows, summed in the precision of `total`."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.T, rows)
    else:
        total += gradient.T @ rows


def _tiles(num_tokens: int, num_entries: int, device: str) -> Iterator[slice]:
    size = max(FEWEST_TOKENS, TILE.get(device, WIDE_TILE) // max(num_entries, 1))
    return (slice(start, start + size) for start in range(0, num_tokens, size))


def _at(values: Tensor, places: Tensor) -> Tensor:
    """[…, K] at the tokens that count, [n, K]."""
    return values.flatten(0, -2)[places]


def _part_of(
    target: Target, options: _Options, shape: torch.Size, places: Tensor, head: VocabularyHead, vocab_size: int | None
) -> tuple[_Part, int]:
    """What computes a tile, and how many entries of the student's head take part."""
    size = min(len(head.weight), vocab_size or len(head.weight))
    if isinstance(target, Tensor):
        if options.kind != "ce" or options.temperature != 1.0:
            raise NeedsError(
                f"token ids with kind {options.kind!r} at temperature {options.temperature}",
                "kind='ce' at temperature 1",
                "use these",
            )
        ids = target.flatten()[places]
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= size):
            raise NeedsError(
                f"token ids from {int(ids.min())} to {int(ids.max())}, the student's head has {size} entries",
                f"ids from 0 to {size - 1}, or {IGNORED_LABEL} for none",
                "encode the texts with the student's tokenizer",
            )
        return _TokenIds(options, ids), size
    if isinstance(target, (HeadAndTail, Samples)):
        return _sparse(target, options, shape, places, size)
    teacher_hidden, teacher_head = target[0], VocabularyHead.of(target[1])
    _same_tokens("the teacher's hidden states", teacher_hidden.shape[:-1], shape)
    size = min(size, len(teacher_head.weight))
    small = VocabularyHead(teacher_head.weight.detach(), teacher_head.bias, teacher_head.scale, teacher_head.softcap).first(size)
    return _Dense(options, teacher_hidden.detach().flatten(0, -2)[places], small), size


def _sparse(target: HeadAndTail | Samples, options: _Options, shape: torch.Size, places: Tensor, size: int) -> tuple[_Part, int]:
    _same_tokens("the response", target.ids.shape[:-1], shape)
    if options.temperature != target.temperature:
        raise NeedsError(
            f"the teacher's answers were kept at temperature {target.temperature}, the loss has {options.temperature}",
            f"the temperature {target.temperature}",
            "set the loss's temperature to it, or keep the answers at another",
        )
    if target.num_classes < size:
        size = target.num_classes
    if isinstance(target, HeadAndTail):
        return _Head(options, target, places), size
    if options.kind not in OF_SAMPLES:
        raise NeedsError(
            f"kind {options.kind!r} weighs entries that were not drawn",
            f"{' or '.join(OF_SAMPLES)} with samples",
            "take kl, or keep head_and_tail",
        )
    return _Draws(options, target, places), size
