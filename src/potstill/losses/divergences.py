"""Response losses by divergences between two distributions: forward, reverse, between them, skewed.

Shapes: B batch, T tokens, C classes. Logits are [B, C], or [B, T, C] with a mask [B, T]; then a row is the mean over its
real tokens. p is the teacher's distribution at temperature τ, q the student's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, logaddexp

from potstill.contracts.signal import TeacherSignal
from potstill.ground.precision import full_precision, log_probabilities
from potstill.knowledge.responses.dense import DenseLogits
from potstill.knowledge.responses.head_and_tail import HeadAndTail
from potstill.knowledge.responses.samples import Samples
from potstill.losses.contract import LossValue, StudentView
from potstill.losses.options import between, one_of, positive
from potstill.losses.reduction import Reduction, divergence, over_rows
from potstill.losses.response import ResponseLoss, TemperatureLoss, logit_mask

Direction = Literal["forward", "reverse"]


@full_precision
def kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float | Tensor = 2.0,
    direction: Direction = "forward",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Kullback–Leibler divergence in nats, times τ² so that its gradient does not shrink with τ.

    forward: τ² Σ p (log p − log q); reverse: τ² Σ q (log q − log p).
    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2.

    Args:
        student_logits: [B, C] or [B, T, C].
        teacher_logits: The same shape.
        temperature: τ, a number, a scalar tensor, or one that broadcasts against the logits: [B, 1], [B, 1, 1] or [B, T, 1].
        direction: "forward" covers the teacher's mass, "reverse" seeks its modes.
    """
    one_of("direction", direction, ("forward", "reverse"))
    log_p = log_probabilities(teacher_logits, temperature, mask)
    log_q = log_probabilities(student_logits, temperature, mask)
    if direction == "reverse":
        log_p, log_q = log_q, log_p
    return _scaled_divergence(log_p, log_q, temperature, mask, reduction)


def _scaled_divergence(
    log_p: Tensor, log_q: Tensor, temperature: float | Tensor, mask: Tensor | None, reduction: Reduction
) -> Tensor:
    scale = temperature**2
    if isinstance(scale, Tensor) and scale.dim() > 0:
        scale = scale.squeeze(-1)  # of the classes, which have one temperature
    return over_rows(scale * divergence(log_p, log_q), mask, reduction)


@full_precision
def reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 2.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Reverse divergence τ² KL(q ‖ p): the student keeps to what the teacher finds likely.

    Source: Gu et al. 2024, MiniLLM (arXiv 2306.08543), at the level of one distribution. Shapes and reduction as in `kl`.
    """
    return kl(student_logits, teacher_logits, temperature=temperature, direction="reverse", mask=mask, reduction=reduction)


@full_precision
def jsd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 2.0,
    is_normalised: bool = True,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Generalised Jensen–Shannon divergence, divided by β(1−β) so that its ends are the two KL divergences.

    τ² [β KL(p ‖ m) + (1−β) KL(q ‖ m)] / (β(1−β)) with m = βp + (1−β)q; β = 0 is forward KL, β = 1 reverse KL.
    Source: Agarwal et al. 2024, GKD (arXiv 2306.13649); the division is ours, because without it the gradient
    vanishes near the ends. Shapes and reduction as in `kl`.

    Args:
        beta: β from 0 to 1.
        temperature: τ.
        is_normalised: Whether to divide by β(1−β); without it, value and gradient are those of the paper.
    """
    between("beta", beta, 0, 1)
    if beta in (0, 1):
        direction: Direction = "forward" if beta == 0 else "reverse"
        return kl(student_logits, teacher_logits, temperature=temperature, direction=direction, mask=mask, reduction=reduction)
    log_p = log_probabilities(teacher_logits, temperature, mask)
    log_q = log_probabilities(student_logits, temperature, mask)
    log_m = logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    values = beta * divergence(log_p, log_m) + (1 - beta) * divergence(log_q, log_m)
    scale = temperature**2 / (beta * (1 - beta) if is_normalised else 1.0)
    return over_rows(scale * values, mask, reduction)


@full_precision
def skew_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 2.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Skewed divergence τ² KL(p ‖ αp + (1−α)q), bounded by τ² log(1/α) even where q is zero.

    Source: Ko et al. 2024, DistiLLM (arXiv 2402.03898). Shapes and reduction as in `kl`.
    """
    log_p = log_probabilities(teacher_logits, temperature, mask)
    log_q = log_probabilities(student_logits, temperature, mask)
    values = divergence(log_p, _mixture(log_p, log_q, alpha))
    return over_rows(temperature**2 * values, mask, reduction)


@full_precision
def skew_reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 2.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Skewed reverse divergence τ² KL(q ‖ αq + (1−α)p).

    Source: Ko et al. 2024, DistiLLM (arXiv 2402.03898). Shapes and reduction as in `kl`.
    """
    return skew_kl(teacher_logits, student_logits, alpha=alpha, temperature=temperature, mask=mask, reduction=reduction)


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
        temperature: τ of the teacher.
        is_weighted: Whether rows of an unsure teacher weigh more.
    """
    values = divergence(log_probabilities(teacher_logits, temperature, mask), log_probabilities(student_logits, 1.0, mask))
    if is_weighted:
        values = values * (log_probabilities(teacher_logits, 1.0, mask) / temperature).exp().sum(-1)
    return over_rows(values, mask, reduction)


def _mixture(log_first: Tensor, log_second: Tensor, share: float) -> Tensor:
    between("alpha", share, 0, 1)
    if share in (0, 1):
        return log_first if share == 1 else log_second
    return logaddexp(log_first + math.log(share), log_second + math.log1p(-share))


class KL(ResponseLoss):
    """Forward (or reverse) KL times τ²; see `functional.kl`. Source: Hinton et al. 2015 (arXiv 1503.02531).

    The forward direction takes parts of a teacher's distribution too, at the temperature at which they were kept. Of a head and
    its tail it is at most the whole divergence; of samples its value is on average larger by a number that does not depend on
    the student, and its gradient is that of the whole on average (`HeadAndTail`, `Samples`). The reverse direction weighs by the
    student, whose mass may lie where nothing was kept, so it takes every logit alone.
    """

    takes_row_temperatures: ClassVar[bool] = True
    formula = staticmethod(kl)

    def __init__(self, *, temperature: float = 2.0, direction: str = "forward") -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.direction = one_of("direction", direction, ("forward", "reverse"))
        if direction == "forward":
            self.responses = (DenseLogits, HeadAndTail, Samples)

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over rows."""
        if teacher is None or not isinstance(teacher.response, self.responses[1:]):
            return super().forward(student, teacher, batch)
        mask = logit_mask(student)
        log_p, log_q = teacher.response.aligned(student.logits, self.temperature, mask)
        total = _scaled_divergence(log_p.detach(), log_q, self.temperature, mask, "sum")
        return LossValue(sum=total, count=self.units(student, batch))


class ReverseKL(TemperatureLoss):
    """Reverse KL times τ²; see `functional.reverse_kl`. Source: MiniLLM (arXiv 2306.08543)."""

    takes_row_temperatures: ClassVar[bool] = True
    formula = staticmethod(reverse_kl)


class JSD(ResponseLoss):
    """Jensen–Shannon divergence, normalised; see `functional.jsd`. Source: GKD (arXiv 2306.13649)."""

    formula = staticmethod(jsd)

    def __init__(self, *, beta: float = 0.5, temperature: float = 2.0, is_normalised: bool = True) -> None:
        super().__init__()
        self.beta = between("beta", beta, 0, 1)
        self.temperature = positive("temperature", temperature)
        self.is_normalised = is_normalised


class SkewKL(ResponseLoss):
    """Skewed KL; see `functional.skew_kl`. Source: DistiLLM (arXiv 2402.03898)."""

    formula = staticmethod(skew_kl)

    def __init__(self, *, alpha: float = 0.1, temperature: float = 2.0) -> None:
        super().__init__()
        self.alpha = between("alpha", alpha, 0, 1)
        self.temperature = positive("temperature", temperature)


class SkewReverseKL(SkewKL):
    """Skewed reverse KL; see `functional.skew_reverse_kl`. Source: DistiLLM (arXiv 2402.03898)."""

    formula = staticmethod(skew_reverse_kl)


class TTM(ResponseLoss):
    """Transformed teacher matching; see `functional.ttm`. Source: Zheng and Yang 2024 (arXiv 2402.11148)."""

    formula = staticmethod(ttm)

    def __init__(self, *, temperature: float = 4.0, is_weighted: bool = False) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.is_weighted = is_weighted
