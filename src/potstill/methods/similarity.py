"""How alike blocks of two models are on the user's rows, and the best rising pairs of them.

Shapes: N rows, D width, S student blocks, L teacher blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from potstill.data.collate import NOT_INPUTS
from potstill.errors import DataError
from potstill.training.taps import available

Read = Callable[[nn.Module, Mapping[str, Any], Sequence[str]], Mapping[str, Tensor]]
LEAST_ROWS = 4
TEACHER = "teacher_"


def block_similarity(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Mapping[str, Any]], read: Read, *, max_rows: int = 512
) -> Tensor:
    """CKA of every student block with every teacher block, [S, L] on the CPU.

    A row of a block is the mean over its real tokens or over its pixels.

    Args:
        student: Model whose blocks are the rows; put into eval mode by the caller.
        teacher: Model whose blocks are the columns.
        batches: As the collator makes them; ``teacher_`` inputs are the teacher's where they are there.
        read: (model, inputs, needs) → values by need name.
        max_rows: Rows that are looked at.

    Raises:
        DataError: Fewer than 4 rows.
    """
    kept: tuple[dict[str, list[Tensor]], ...] = tuple({need: [] for need in _blocks(model)} for model in (student, teacher))
    num_rows = 0
    for batch in batches:
        if num_rows >= max_rows:
            break
        for model, rows, inputs in zip((student, teacher), kept, (_inputs(batch), _inputs(batch, TEACHER)), strict=True):
            with torch.no_grad():
                values = read(model, inputs, tuple(rows))
            for need, parts in rows.items():
                parts.append(_row_vectors(values[need], inputs.get("attention_mask")))
        num_rows += len(next(iter(kept[0].values()))[-1])
    if num_rows < LEAST_ROWS:
        raise DataError(f"{num_rows} rows were given to compare blocks", f"at least {LEAST_ROWS} rows", "give more rows")
    grams = [[_centred_gram(torch.cat(parts)[:max_rows]) for parts in rows.values()] for rows in kept]
    return torch.stack([torch.stack([alignment(own, other) for other in grams[1]]) for own in grams[0]])


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of two unbiased, centred Gram matrices [N, N]: debiased linear CKA, about 0 for unrelated rows of any width.

    Source: Kornblith et al. 2019 (arXiv 1905.00414) with the unbiased HSIC of Song et al. 2012.
    """
    return (first * second).sum() / (first.norm() * second.norm()).clamp(min=1e-12)


def _centred_gram(rows: Tensor) -> Tensor:
    """U-centred Gram matrix of [N, D]: zero diagonal, and sums of rows of zero."""
    rows = rows.double() - rows.double().mean(0)
    gram = rows @ rows.T
    count = len(gram)
    gram.fill_diagonal_(0.0)
    sums = gram.sum(0) / (count - 2)
    total = sums.sum() / (2 * (count - 1))
    centred = gram - (sums - total)[:, None] - (sums - total)[None, :]
    return centred.fill_diagonal_(0.0)


def best_rising(similarity: Tensor) -> list[tuple[int, int]]:
    """Pairs (row, column), 1-based and rising on both sides, with the largest sum; the shorter side is in whole.

    Example:
        >>> best_rising(torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.4]]))
        [(1, 2), (2, 3)]
    """
    if similarity.shape[0] > similarity.shape[1]:
        return [(row, column) for column, row in best_rising(similarity.T)]
    num_rows, num_columns = similarity.shape
    # best[r][c]: largest sum over the first r rows with columns among the first c.
    best = [[0.0] * (num_columns + 1)] + [[float("-inf")] * (num_columns + 1) for _ in range(num_rows)]
    for row in range(1, num_rows + 1):
        for column in range(row, num_columns + 1):
            taken = best[row - 1][column - 1] + float(similarity[row - 1, column - 1])
            best[row][column] = max(best[row][column - 1], taken)
    pairs, column = [], num_columns
    for row in range(num_rows, 0, -1):
        while best[row][column - 1] == best[row][column]:
            column -= 1
        pairs.append((row, column))
        column -= 1
    return pairs[::-1]


def _blocks(model: nn.Module) -> list[str]:
    return [name for name in available(model) if name.startswith("hidden:")]


def _inputs(batch: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    own = {key.removeprefix(TEACHER): value for key, value in batch.items() if prefix and key.startswith(prefix)}
    return own or {key: value for key, value in batch.items() if key not in NOT_INPUTS and not key.startswith(TEACHER)}


def _row_vectors(values: Tensor, mask: Tensor | None) -> Tensor:
    if values.dim() == 4:
        return values.mean((2, 3)).cpu()
    if mask is None or mask.shape != values.shape[:2]:
        return values.mean(1).cpu()
    weights = mask.to(values.dtype).unsqueeze(-1)
    return ((values * weights).sum(1) / weights.sum(1).clamp(min=1)).cpu()
