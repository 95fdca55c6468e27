"""Linear centred kernel alignment (CKA): how alike two representations of the same rows are, whatever their widths.

Source: Kornblith et al. 2019 (https://arxiv.org/abs/1905.00414); debiased with the unbiased HSIC of Song et al. 2012.

Shapes: N rows, B batch, T tokens, D width, C channels, H height, W width of a map, S and L blocks of two models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from potstill.errors import DataError

LEAST_ROWS, LEAST_ROWS_DEBIASED = 2, 4


def cka_matrix(first: Sequence[Tensor], second: Sequence[Tensor], *, debiased: bool = False) -> Tensor:
    """CKA of every representation of one side with every one of the other, [S, L] in float64, without a gradient.

    Formula: ‖XᵀY‖² / (‖XᵀX‖ · ‖YᵀY‖) with centred columns and Frobenius norms: 0 to 1, unchanged by rotation and scale of either
    side; 0 where a side is constant.

    Args:
        first: S tensors [N, D].
        second: L tensors [N, D].
        debiased: Remove the bias that makes few rows of wide vectors look alike; needs 4 rows, and may fall below 0.

    Raises:
        DataError: Different rows, or too few.

    Example:
        >>> cka_matrix([torch.tensor([[0.0], [1.0], [2.0]])], [torch.tensor([[0.0, 0.0], [0.0, 3.0], [0.0, 6.0]])]).item()
        1.0
    """
    counts = {len(rows) for rows in (*first, *second)}
    least = LEAST_ROWS_DEBIASED if debiased else LEAST_ROWS
    if len(counts) != 1 or min(counts) < least:
        given = " and ".join(map(str, sorted(counts))) or "0"
        raise DataError(f"{given} rows were given for CKA", f"the same rows, at least {least}", "give more rows")
    with torch.no_grad():
        sides = [[_centred(rows) for rows in side] for side in (first, second)]
        if debiased:
            sides = [[_gram_without_bias(rows) for rows in side] for side in sides]
            return torch.stack([torch.stack([_cosine(own, other) for other in sides[1]]) for own in sides[0]])
        norms = [[(rows.T @ rows).norm() for rows in side] for side in sides]
        shared = torch.stack([torch.stack([(own.T @ other).square().sum() for other in sides[1]]) for own in sides[0]])
        scales = torch.stack(norms[0])[:, None] * torch.stack(norms[1])
        return (shared / scales.clamp(min=1e-300)).clamp(max=1.0)


def row_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean over the real tokens of [B, T, D], or over the pixels of [B, C, H, W]; other values as they are.

    Args:
        values: [B, D], [B, T, D] or [B, C, H, W].
        mask: [B, T], true on real tokens; ignored where it does not fit.
    """
    if values.dim() == 4:
        return values.mean((2, 3))
    if values.dim() != 3:
        return values
    if mask is None or mask.shape != values.shape[:2]:
        return values.mean(1)
    weights = mask.to(values.device, values.dtype).unsqueeze(-1)
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def row_vectors(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """One vector a row, in float64 and without a gradient: its mean, see `row_mean`."""
    return row_mean(values.detach().double(), mask)


def _centred(rows: Tensor) -> Tensor:
    rows = rows.detach().double()
    return rows - rows.mean(0)


def _gram_without_bias(rows: Tensor) -> Tensor:
    """U-centred Gram matrix of centred rows [N, D]: zero diagonal, and sums of rows of zero."""
    gram = rows @ rows.T
    count = len(gram)
    gram.fill_diagonal_(0.0)
    sums = gram.sum(0) / (count - 2)
    middle = sums - sums.sum() / (2 * (count - 1))
    return (gram - middle[:, None] - middle[None, :]).fill_diagonal_(0.0)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    scale = first.norm() * second.norm()
    return torch.where(scale > 0, (first * second).sum() / scale.clamp(min=1e-300), torch.zeros_like(scale))
