"""Contrast losses: the same row seen by student and teacher against other rows.

Shapes: B batch, E width of the embedding, N rows of the training set, K negatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from potstill.ground.precision import full_precision
from potstill.losses.bridges import width_of
from potstill.losses.layers import PairedLoss
from potstill.losses.options import LayerPair, positive
from potstill.losses.reduction import Reduction, over_rows
from potstill.losses.transfer import HEAD_INPUT, vectors


@full_precision
def info_nce(
    student_embedding: Tensor, teacher_embedding: Tensor, *, temperature: float = 0.07, reduction: Reduction = "mean"
) -> Tensor:
    """−log of the softmax over the batch of cos(s_i, t_j) / τ at j = i.

    Source: van den Oord et al. 2018 (arXiv 1807.03748), with cosine similarity.

    Args:
        student_embedding: [B, E].
        teacher_embedding: [B, E].
        temperature: τ.
        reduction: Over rows.
    """
    student, teacher = F.normalize(student_embedding, dim=-1), F.normalize(teacher_embedding, dim=-1)
    values = -F.log_softmax(student @ teacher.T / temperature, dim=-1).diagonal()
    return over_rows(values, None, reduction)


@full_precision
def crd(positive_scores: Tensor, negative_scores: Tensor, *, num_rows: int, reduction: Reduction = "mean") -> Tensor:
    """Noise-contrastive loss −log h(x₊) − Σ_K log(1 − h(x₋)), h(x) = x / (x + K/N), x the normalised exponential scores.

    Source: Tian et al. 2020 (arXiv 1910.10699).

    Args:
        positive_scores: log x of the positive [B].
        negative_scores: log x of the negatives [B, K].
        num_rows: N.
        reduction: Over rows.
    """
    # log h = −softplus(log(K/N) − log x); log(1 − h) = −softplus(log x − log(K/N))
    bias = math.log(negative_scores.shape[1] / num_rows)
    values = F.softplus(bias - positive_scores) + F.softplus(negative_scores - bias).sum(-1)
    return over_rows(values, None, reduction)


class InfoNCE(PairedLoss):
    """Contrast within the batch; see `functional.info_nce`. Source: van den Oord et al. 2018 (arXiv 1807.03748).

    Where the widths differ, the student is projected to the teacher's width; the teacher stays as it is.

    Args:
        layers: Pairs of taps; each value becomes one vector per row.
        project: "auto" bridges where the widths differ, "linear" always, "none" never.
        temperature: τ of the softmax.
    """

    kind: ClassVar[str] = "contrast"

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT, project: str = "auto", temperature: float = 0.07) -> None:
        super().__init__(layers=layers, project=project)
        self.temperature = positive("temperature", temperature)

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        """Every value becomes one vector per row."""

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        vector_shapes = (1, width_of(student_shape)), (1, width_of(teacher_shape))
        return super().bridge(*vector_shapes, names)

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        student = self.bridged(index, vectors(student_value, token_mask))
        teacher = vectors(teacher_value, token_mask)
        return info_nce(student, teacher, temperature=self.temperature, reduction="sum")
