"""Contrast within the batch: the same row seen by student and teacher against the other rows.

Shapes: B batch, E width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from potstill.ground.precision import full_precision
from potstill.losses.layers import BridgedLoss
from potstill.losses.options import HEAD_INPUT, LayerPair, positive
from potstill.losses.reduction import Reduction, over_rows


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


class InfoNCE(BridgedLoss):
    """Contrast within the batch; see `functional.info_nce`. Source: van den Oord et al. 2018 (arXiv 1807.03748).

    Where the widths differ, the student is projected to the teacher's width; the teacher stays as it is.

    Args:
        layers: Pairs of taps; each value becomes one vector per row.
        project: "auto" bridges where the widths differ, "linear" always, "none" never.
        temperature: τ of the softmax.
    """

    kind: ClassVar[str] = "contrast"
    of_vectors: ClassVar[bool] = True
    formula = staticmethod(info_nce)

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT, project: str = "auto", temperature: float = 0.07) -> None:
        super().__init__(layers=layers, project=project)
        self.temperature = positive("temperature", temperature)
