"""Response loss whose teacher alone is softened: its distribution, raised to a power, is matched by the student's own.

Shapes: B batch, T tokens, C classes. Logits are [B, C], or [B, T, C] with a mask [B, T]; then a row is the mean over its
real tokens. p is the teacher's distribution at temperature 1, q the student's.
"""

from __future__ import annotations

from torch import Tensor

from potstill.ground.precision import full_precision, log_probabilities
from potstill.losses.options import positive
from potstill.losses.reduction import Reduction, divergence, over_rows
from potstill.losses.response import ResponseLoss


@full_precision
def ttm(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 4.0,
    is_weighted: bool = False,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Transformed teacher matching KL(p_τ ‖ q): p_τ ∝ p^{1/τ} is the teacher at τ, q the student at temperature 1.

    Its minimum is at q = p_τ, so the student becomes softer than the teacher; without a temperature of the student's there is no
    factor τ². With `is_weighted`, each row weighs Σ_c p_c^{1/τ}: 1 for a teacher that is sure, up to C^{1−1/τ} for an even one.

    Source: Zheng and Yang 2024, transformed teacher matching (arXiv 2402.11148), TTM and its weighted form WTTM.
    Shapes and reduction as in `kl`.

    Args:
        student_logits: [B, C] or [B, T, C].
        teacher_logits: The same shape.
        temperature: τ of the teacher.
        is_weighted: Whether rows of an unsure teacher weigh more.
        mask: [B] or [B, T], true on units that count.
        reduction: Over rows.
    """
    values = divergence(log_probabilities(teacher_logits, temperature, mask), log_probabilities(student_logits, 1.0, mask))
    if is_weighted:
        values = values * (log_probabilities(teacher_logits, 1.0, mask) / temperature).exp().sum(-1)
    return over_rows(values, mask, reduction)


class TTM(ResponseLoss):
    """Transformed teacher matching; see `functional.ttm`. Source: Zheng and Yang 2024 (arXiv 2402.11148)."""

    formula = staticmethod(ttm)

    def __init__(self, *, temperature: float = 4.0, is_weighted: bool = False) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.is_weighted = is_weighted
