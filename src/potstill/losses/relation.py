"""Relation losses: how positions or channels relate to each other inside a row; widths need no bridge.

Shapes: B batch, T tokens, D width, C channels, H height, W width of a map, P positions (T or H·W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from potstill.losses.bridges import match_maps
from potstill.losses.layers import PairedLoss, mask_for
from potstill.losses.options import LAST_LAYER, LayerPair
from potstill.losses.precision import full_precision
from potstill.losses.reduction import Reduction, over_rows


@full_precision
def gram(student_hidden: Tensor, teacher_hidden: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Mean squared difference of cosine matrices over positions: 1/P² ‖ŜŜᵀ − T̂T̂ᵀ‖², rows of Ŝ and T̂ of length one.

    Source: the relation term of LLaVA-KD (arXiv 2410.16236), with squared differences for its cosine of matrices.

    Args:
        student_hidden: [B, T, D] or [B, C, H, W].
        teacher_hidden: The same tokens or grid; the width may differ.
        mask: [B, T], true on real tokens; pairs with a pad do not count.
        reduction: Over rows.
    """
    student, teacher = (F.normalize(positions(value), dim=-1) for value in (student_hidden, teacher_hidden))
    difference = student @ student.transpose(1, 2) - teacher @ teacher.transpose(1, 2)
    pairs = None if mask is None else mask.bool()[:, :, None] & mask.bool()[:, None, :]
    return over_rows(difference.square(), pairs, reduction)


def positions(values: Tensor) -> Tensor:
    """[B, C, H, W] as [B, H·W, C]; [B, T, D] as it is."""
    return values.flatten(2).transpose(1, 2) if values.dim() == 4 else values


class WithoutBridge(PairedLoss):
    """Base of relation losses inside a row: any widths, the same tokens, or grids pooled to the smaller."""

    kind: ClassVar[str] = "relation"
    ranks: ClassVar[tuple[int, ...]] = (3, 4)
    nearest: ClassVar[str] = "sp"

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER) -> None:
        super().__init__(layers=layers)

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return nn.Identity()


class Gram(WithoutBridge):
    """Cosine matrices over positions; see `functional.gram`. Source: LLaVA-KD (arXiv 2410.16236)."""

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        student_value, teacher_value = match_maps(student_value, teacher_value)
        return gram(student_value, teacher_value, mask=mask_for(teacher_value, token_mask), reduction="sum")
