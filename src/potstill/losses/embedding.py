"""Response losses for embeddings: the direction of each row, and how alike the rows of a batch are.

Shapes: B batch, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from potstill.ground.precision import finite, full_precision
from potstill.losses.options import positive
from potstill.losses.reduction import Reduction, divergence, of_batch, over_rows
from potstill.losses.response import ResponseLoss


@full_precision
def output_cosine(
    student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Cosine distance of outputs 1 − ⟨s, t⟩ / (‖s‖ ‖t‖), as half the squared chord.

    Source: Reimers and Gurevych 2020, Making Monolingual Sentence Embeddings Multilingual (arXiv 2004.09813), section 2, whose
    mean squared error it equals up to D/2 for embeddings of length one.

    Args:
        student_embedding: [B, D].
        teacher_embedding: [B, D].
    """
    chord = F.normalize(finite(student_embedding), dim=-1) - F.normalize(finite(teacher_embedding), dim=-1)
    return over_rows(0.5 * chord.square().sum(-1), mask, reduction)


@full_precision
def similarity_kl(
    student_embedding: Tensor, teacher_embedding: Tensor, *, temperature: float = 0.05, reduction: Reduction = "mean"
) -> Tensor:
    """KL between what teacher and student think each row's nearest rows are: softmax of cosines / τ over the others of the batch.

    Source: Fang et al. 2021, SEED (arXiv 2101.04731), eq. 4 to 6, with the batch for the queue, the row itself left out, and KL
    for cross-entropy. The value belongs to the batch: "mean" is the mean over rows, "sum" B times it.

    Args:
        student_embedding: [B, D]; the width may differ from the teacher's.
        teacher_embedding: [B, D].
        temperature: τ of the cosines.
        reduction: See above; "none" gives the mean B times.
    """
    num_rows = student_embedding.shape[0]
    if num_rows < 3:  # one other row has probability one, whatever it is
        return of_batch(finite(student_embedding).sum() * 0.0, num_rows, reduction)
    log_p, log_q = (_neighbours(rows, temperature) for rows in (teacher_embedding, student_embedding))
    return of_batch(divergence(log_p, log_q).mean(), num_rows, reduction)


def _neighbours(rows: Tensor, temperature: float) -> Tensor:
    """[B, B − 1] log-probabilities of the other rows."""
    unit = F.normalize(finite(rows), dim=-1)
    count = len(rows)
    # All but the diagonal, in order: behind it and between its entries lie runs of B others.
    others = (unit @ unit.T).flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)
    return F.log_softmax(others / temperature, dim=-1)


class OutputCosine(ResponseLoss):
    """Cosine distance of outputs; see `functional.output_cosine`. Source: arXiv 2004.09813."""

    of_classes: ClassVar[bool] = False
    formula = staticmethod(output_cosine)


class SimilarityKL(ResponseLoss):
    """Similarities of outputs within the batch; see `functional.similarity_kl`. Source: SEED (arXiv 2101.04731).

    Args:
        temperature: τ of the cosines.
    """

    of_classes: ClassVar[bool] = False

    def __init__(self, *, temperature: float = 0.05) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        student_rows, teacher_rows = student_logits.flatten(1), teacher_logits.flatten(1)
        return similarity_kl(student_rows, teacher_rows, temperature=self.temperature, reduction="sum")
