"""Similarity of teacher and student layer by layer: CKA of hidden states, Jensen–Shannon divergence of attention.

Shapes: N rows, B batch, T tokens, D width, H heads, S student layers, L teacher layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.errors import DataError, NeedsError
from potstill.ground.counted import counted
from potstill.methods.similarity import Read, model_inputs, on_device_of, rows_of_blocks
from potstill.models.cka import LEAST_ROWS, cka_matrix

MAX_ROWS = 2000


@dataclass(frozen=True)
class AttentionDifference:
    """Divergence of attention for every mapped pair of layers.

    Args:
        pairs: (student layer, teacher layer), 1-based.
        divergence: [pairs] mean Jensen–Shannon divergence over rows, heads and real query tokens, in nats, 0 to ln 2.
        num_rows: Rows compared; rows that the two tokenize to different lengths are left out.
        maps: Per pair, attention of the first compared row averaged over heads, (student [T, T], teacher [T, T]).
    """

    pairs: tuple[tuple[int, int], ...]
    divergence: np.ndarray
    num_rows: int
    maps: tuple[tuple[np.ndarray, np.ndarray], ...]


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Jensen–Shannon divergence along the last axis, in nats, from 0 (equal) to ln 2 (disjoint).

    Formula: (KL(p ‖ m) + KL(q ‖ m)) / 2 with m = (p + q) / 2.

    Args:
        first: [..., K] probabilities.
        second: [..., K] probabilities.
    """
    first, second = first.double(), second.double()
    middle = (first + second) / 2
    # rel_entr as x·log x with 0·log 0 = 0, so that masked entries add nothing
    halves = torch.xlogy(first, first) + torch.xlogy(second, second) - 2 * torch.xlogy(middle, middle)
    return (halves.sum(-1) / 2).clamp(0.0, math.log(2.0))


def layer_similarity(
    student: Any,
    teacher: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    student_needs: Sequence[str],
    teacher_needs: Sequence[str],
    read: Read,
    max_rows: int = MAX_ROWS,
) -> np.ndarray:
    """CKA of every student layer with every teacher layer: [S, L], each from 0 to 1.

    A row of a layer is the mean over its real tokens (or over its pixels); batches may hold ``teacher_`` inputs.

    Raises:
        DataError: Fewer than 2 rows.
    """
    needs = (student_needs, teacher_needs)
    sides, num_rows = rows_of_blocks((student, teacher), needs, batches, read, max_rows=max_rows)
    if num_rows < LEAST_ROWS:
        raise DataError(f"{counted(num_rows, 'row was', 'rows were')} given to compare layers", f"at least {LEAST_ROWS} rows")
    matrix: np.ndarray = cka_matrix(list(sides[0].values()), list(sides[1].values())).numpy()
    return matrix


def attention_difference(
    student: Any,
    teacher: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    pairs: Sequence[tuple[int, int]],
    read: Read,
    max_rows: int = 256,
) -> AttentionDifference:
    """Mean Jensen–Shannon divergence between the attention of mapped layers.

    Where the numbers of heads differ, probabilities are averaged over heads first.

    Args:
        pairs: (student layer, teacher layer), 1-based.
        read: (model, inputs, needs) → values by need name; ``attention:k`` are scores before softmax, without mask.

    Raises:
        NeedsError: No pair, or no row has the same number of tokens in both.
    """
    if not pairs:
        raise NeedsError("no pair of layers was given to compare attention", "(student layer, teacher layer), 1-based")
    sums, num_queries, num_rows = np.zeros(len(pairs)), 0.0, 0
    maps: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    for batch in batches:
        if num_rows >= max_rows:
            break
        ours, theirs = model_inputs(batch), model_inputs(batch, teacher=True)
        with torch.no_grad():
            student_scores = read(student, on_device_of(student, ours), tuple(f"attention:{layer}" for layer, _ in pairs))
            teacher_scores = read(teacher, on_device_of(teacher, theirs), tuple(f"attention:{layer}" for _, layer in pairs))
        first = student_scores[f"attention:{pairs[0][0]}"]
        mask = _mask(ours, first.shape[0], first.shape[-1])
        other = teacher_scores[f"attention:{pairs[0][1]}"]
        same = _same_lengths(mask, _mask(theirs, other.shape[0], other.shape[-1]))
        tokens = min(first.shape[-1], other.shape[-1])
        mask = mask[same, :tokens].to(first.device)
        if not same.any():
            continue
        found = []
        for index, (ours_at, theirs_at) in enumerate(pairs):
            p = _attention(student_scores[f"attention:{ours_at}"], same, mask)
            q = _attention(teacher_scores[f"attention:{theirs_at}"], same, mask).to(p.device)
            found.append(_example(p, q, mask))
            if p.shape[1] != q.shape[1]:
                p, q = p.mean(1, keepdim=True), q.mean(1, keepdim=True)
            sums[index] += float((jensen_shannon(p, q).mean(1) * mask).sum())
        maps = maps or tuple(found)
        num_queries += float(mask.sum())
        num_rows += int(same.sum())
    if num_rows == 0:
        raise NeedsError("no row has the same number of tokens for teacher and student", "at least one such row")
    return AttentionDifference(tuple((int(a), int(b)) for a, b in pairs), sums / num_queries, num_rows, maps)


def _mask(inputs: Mapping[str, Any], num_rows: int, tokens: int) -> Tensor:
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape[1] != tokens:
        return torch.ones(num_rows, tokens, dtype=torch.bool)
    return mask.bool().cpu()


def _same_lengths(first: Tensor, second: Tensor) -> Tensor:
    return first.sum(1) == second.sum(1)


def _attention(scores: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
    """Probabilities [B, H, T, T] over real keys, of the rows compared, cut to the tokens compared."""
    tokens = mask.shape[1]
    kept = scores.detach()[rows.to(scores.device)][..., :tokens, :tokens].double()
    return kept.masked_fill(~mask.to(kept.device)[:, None, None, :], -torch.inf).softmax(-1)


def _example(p: Tensor, q: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    length = int(mask[0].sum())
    first, second = (value[0, :, :length, :length].mean(0).cpu().numpy() for value in (p, q))
    return first, second
