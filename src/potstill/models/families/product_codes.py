"""Product codes of an embedding table: k-means in each group of units, in the metric that the teacher's answers give.

Source: Jégou, Douze and Schmid 2011, "Product Quantization for Nearest Neighbor Search", section II; weighted k-means after
Lloyd 1982. The metric is what makes it differ from the usual: an error counts as much as it moves the teacher's answers.

Shapes: V tokens, D width, M groups, K codes per group.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ROUNDS = 8
FITTED_ROWS = 32768  # the heaviest rows settle the tables; the others are only assigned
METRIC_FLOOR = 0.1  # share of the plain metric in the one that the teacher's gradients give
_CHUNK = 512


@torch.no_grad()
def product_codes(
    table: Tensor, weights: Tensor, *, groups: int, codes: int, metric: Tensor | None = None, rounds: int = ROUNDS
) -> tuple[Tensor, Tensor]:
    """Codes and tables that rebuild `table` as well as they can.

    Within each group the sum over tokens of weight · (x − c)ᵀ G (x − c) is made small, where G is the group's block of `metric`.
    With as many codes as there are different rows, nothing is lost.

    Args:
        table: [V, D] float.
        weights: [V] how much each token counts, positive.
        groups: M; divides D.
        codes: K; more than V are filled with zeros.
        metric: [D, D] positive semi-definite: how much errors in each direction matter; all alike where left out.
        rounds: Of k-means.

    Returns:
        Codes [V, M] int64, each from 0 to K − 1, and tables [M, K, D / M] float32.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0, 5.0, 5.0], [0.0, 1.0, 5.0, 5.0]])
        >>> assigned, tables = product_codes(rows, torch.ones(2), groups=2, codes=2)
        >>> bool((rebuilt(assigned, tables) == rows).all())
        True
    """
    table, weights = table.float(), weights.float()
    width = table.shape[1] // groups
    order = torch.argsort(weights, descending=True, stable=True)
    heavy = order[:FITTED_ROWS]
    assigned = torch.empty(len(table), groups, dtype=torch.long)
    tables = torch.zeros(groups, codes, width)
    for m in range(groups):
        units = slice(m * width, (m + 1) * width)
        root = _root(metric, units, width)
        rows = table[:, units] @ root
        centres = _k_means(rows[heavy], weights[heavy], min(codes, len(heavy)), rounds)
        assigned[:, m] = _nearest(rows, centres)
        tables[m, : len(centres)] = torch.linalg.solve(root, centres, left=False)
    return assigned, tables


def rebuilt(assigned: Tensor, tables: Tensor) -> Tensor:
    """The table [V, D] that codes [V, M] and tables [M, K, D / M] stand for."""
    return tables[torch.arange(len(tables)), assigned].flatten(1)


def _root(metric: Tensor | None, units: slice, width: int) -> Tensor:
    """The Cholesky factor of a group's block of the metric, mean diagonal one, mixed with the plain metric."""
    plain = torch.eye(width)
    if metric is None or float(metric.diagonal().mean()) <= 0:
        return plain
    block = metric[units, units].float() / metric.diagonal().mean().float()
    return torch.linalg.cholesky((1 - METRIC_FLOOR) * block + METRIC_FLOOR * plain)


def _k_means(rows: Tensor, weights: Tensor, number: int, rounds: int) -> Tensor:
    """Centres [number, D/M], started at the heaviest rows that differ; an empty centre moves to the row that is worst off."""
    centres = _first_different(rows, number)
    for step in range(rounds):
        nearest = _nearest(rows, centres)
        mass = torch.zeros(len(centres)).index_add_(0, nearest, weights)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows * weights[:, None])
        used = mass > 0
        centres[used] = sums[used] / mass[used, None]
        empty = int((~used).sum())
        if empty and step < rounds - 1:
            errors = (rows - centres[nearest]).square().sum(1) * weights
            centres[~used] = rows[errors.topk(empty).indices]
    return centres


def _first_different(rows: Tensor, number: int) -> Tensor:
    """The first `number` different rows, in order; fewer where there are fewer."""
    values = np.ascontiguousarray(rows.numpy() + np.float32(0))  # so that −0 and 0 have the same bytes
    _, first = np.unique(values.view(np.dtype((np.void, values.strides[0]))).ravel(), return_index=True)
    return rows[torch.from_numpy(np.sort(first)[:number])].clone()


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """[N] the centre nearest to each row; NumPy's argmin takes a quarter of the time of PyTorch's on a CPU."""
    lengths, directions = centres.square().sum(1), (-2 * centres).T.contiguous()
    found = [torch.addmm(lengths, chunk, directions).numpy().argmin(1) for chunk in rows.split(_CHUNK)]
    return torch.from_numpy(np.concatenate(found))
