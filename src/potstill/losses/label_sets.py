"""Response losses for several labels at once, which do not exclude each other.

Shapes: B batch, C labels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from potstill.ground.precision import finite, full_precision
from potstill.losses.options import positive
from potstill.losses.reduction import Reduction, alike, over_rows
from potstill.losses.response import TargetLoss, known_places


@full_precision
def bce(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Binary cross-entropy with the teacher's probabilities, for labels that do not exclude each other.

    τ²/C Σ_c −σ(t/τ) log σ(s/τ) − (1 − σ(t/τ)) log(1 − σ(s/τ)); its minimum is the teacher's entropy.
    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2, with one Bernoulli per label for the softmax.

    Args:
        student_logits: [B, C].
        teacher_logits: [B, C].
        temperature: τ.
        mask: [B, C] or [B, 1], true on labels that count.
        reduction: Over rows.
    """
    alike(student_logits, teacher_logits)
    targets = (finite(teacher_logits) / positive("temperature", temperature)).sigmoid()
    values = F.binary_cross_entropy_with_logits(finite(student_logits) / temperature, targets, reduction="none")
    return over_rows(temperature**2 * values, mask, reduction)


class BCE(TargetLoss):
    """Binary cross-entropy for multi-label tasks; see `functional.bce`. Source: arXiv 1503.02531, per label.

    Args:
        temperature: τ of the teacher's and student's probabilities; unused with labels.
        target: "teacher" or "labels" (0 or 1 per label, -100 where unknown).
    """

    formula = staticmethod(bce)

    def __init__(self, *, temperature: float = 1.0, target: str = "teacher") -> None:
        super().__init__(target=target)
        self.temperature = positive("temperature", temperature)

    def from_labels(self, student_logits: Tensor, labels: Tensor) -> Tensor:
        known = known_places(labels)
        logits = finite(student_logits.float())
        values = F.binary_cross_entropy_with_logits(logits, labels.masked_fill(~known, 0).to(logits.dtype), reduction="none")
        return over_rows(values, known, "sum")
