"""Response losses: the student's output against labels or the teacher's output.

Shapes: B batch, T tokens, C classes. Logits are [B, C], or [B, T, C] with a mask [B, T]; then a row is the mean over its
real tokens. p is the teacher's distribution at temperature τ, q the student's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, logaddexp

from potstill.errors import NeedsError
from potstill.losses.contract import IGNORED_LABEL, Loss, LossValue, Shapes, StudentView
from potstill.losses.layers import loss_name
from potstill.losses.options import between, one_of, positive
from potstill.losses.precision import finite, full_precision
from potstill.losses.reduction import Reduction, over_labelled, over_rows
from potstill.teacher.signal import TeacherSignal

Direction = Literal["forward", "reverse"]


@full_precision
def ce(student_logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: Reduction = "mean") -> Tensor:
    """Cross-entropy with hard labels: −log q(y), smoothed by ε: −(1−ε) log q(y) − ε/C Σ log q.

    Labels of -100 carry no loss; "mean" divides by the labelled units, "none" returns one value per unit.
    Source: Szegedy et al. 2016 (arXiv 1512.00567) for the smoothing.

    Args:
        student_logits: [B, C] or [B, T, C].
        labels: [B] or [B, T], int64.
        label_smoothing: ε.
        reduction: "none", "sum" or "mean".
    """
    flat = finite(student_logits).flatten(0, -2)
    values = F.cross_entropy(
        flat, labels.flatten(), ignore_index=IGNORED_LABEL, label_smoothing=label_smoothing, reduction="none"
    )
    return over_labelled(values, labels, reduction)


def log_probabilities(logits: Tensor, temperature: float | Tensor, mask: Tensor | None = None) -> Tensor:
    """log softmax(logits / τ) over the last axis, finite for logits of −inf and for masked units."""
    return F.log_softmax(finite(logits, mask) / temperature, dim=-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) over the last axis from log-probabilities."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


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
        temperature: τ, a number or a tensor that broadcasts against the logits.
        direction: "forward" covers the teacher's mass, "reverse" seeks its modes.
        mask: [B] or [B, T], true on units that count.
        reduction: "none" ([B]), "sum" or "mean" over rows.
    """
    log_p = log_probabilities(teacher_logits, temperature, mask)
    log_q = log_probabilities(student_logits, temperature, mask)
    if direction == "reverse":
        log_p, log_q = log_q, log_p
    scale = temperature.flatten(1)[:, 0] ** 2 if isinstance(temperature, Tensor) and temperature.dim() > 1 else temperature**2
    values = divergence(log_p, log_q)
    if isinstance(scale, Tensor) and scale.dim() == 1 and values.dim() == 2:
        scale = scale.unsqueeze(-1)
    return over_rows(scale * values, mask, reduction)


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
        student_logits: [B, C] or [B, T, C].
        teacher_logits: The same shape.
        beta: β from 0 to 1.
        temperature: τ.
        is_normalised: Whether to divide by β(1−β); without it, value and gradient are those of the paper.
        mask: [B] or [B, T].
        reduction: Over rows.
    """
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
    log_p = log_probabilities(teacher_logits, temperature, mask)
    log_q = log_probabilities(student_logits, temperature, mask)
    values = divergence(log_q, _mixture(log_q, log_p, alpha))
    return over_rows(temperature**2 * values, mask, reduction)


@full_precision
def tvd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Total variation distance τ · ½ Σ |p − q|.

    The factor is τ, not τ²: the gradient of |p − q| shrinks with 1/τ.
    Source: Wen et al. 2023, f-divergence distillation (arXiv 2307.15190). Shapes and reduction as in `kl`.
    """
    p = log_probabilities(teacher_logits, temperature, mask).exp()
    q = log_probabilities(student_logits, temperature, mask).exp()
    return over_rows(temperature * 0.5 * (p - q).abs().sum(-1), mask, reduction)


@full_precision
def logit_mse(
    student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared difference of raw logits: 1/C Σ (z_s − z_t)².

    Source: Ba and Caruana 2014 (arXiv 1312.6184), with the mean over classes for ½ Σ. Shapes and reduction as in `kl`.
    """
    difference = finite(student_logits, mask) - finite(teacher_logits, mask)
    return over_rows(difference.square().mean(-1), mask, reduction)


@full_precision
def soft_ce(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 2.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy with soft targets −τ² Σ p log q; its gradient is that of `kl`, its minimum the teacher's entropy.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2. Shapes and reduction as in `kl`.
    """
    p = log_probabilities(teacher_logits, temperature, mask).exp()
    log_q = log_probabilities(student_logits, temperature, mask)
    return over_rows(-(temperature**2) * (p * log_q).sum(-1), mask, reduction)


def _mixture(log_first: Tensor, log_second: Tensor, share: float) -> Tensor:
    if share in (0, 1):
        return log_first if share == 1 else log_second
    return logaddexp(log_first + math.log(share), log_second + math.log1p(-share))


class ResponseLoss(Loss):
    """Base of losses that read the logits of both sides; refuses different numbers of classes."""

    kind: ClassVar[str] = "response"
    min_classes: ClassVar[int] = 1

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        del num_rows
        if teacher is not None and student.logits[-1] != teacher.logits[-1]:
            raise NeedsError(
                f"{loss_name(self)}: the student has {student.logits[-1]} outputs, the teacher {teacher.logits[-1]}",
                "the same classes in the same order on both sides",
                "give the student the teacher's classes, or take the loss uld",
            )
        if student.logits[-1] < self.min_classes:
            raise NeedsError(
                f"{loss_name(self)} says nothing about {student.logits[-1]} classes",
                f"at least {self.min_classes} classes",
                "take the loss kl",
            )

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over rows."""
        if teacher is None:
            raise NeedsError(f"{loss_name(self)} needs a teacher signal, there is none", todo="give the trainer a teacher")
        mask = logit_mask(student)
        total = self.compare(student.logits, teacher.logits.detach(), mask, batch)
        return LossValue(sum=total, count=float(student.logits.shape[0]))

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        """Sum over rows."""
        raise TypeError(f"{type(self).__name__} does not define compare")


def logit_mask(student: StudentView) -> Tensor | None:
    """The mask of units or tokens where the logits are per unit or token, else None."""
    if student.unit_mask is not None:
        return student.unit_mask
    return student.token_mask if student.logits.dim() == 3 else None


class CE(Loss):
    """Cross-entropy with the labels; see `functional.ce`. Source: arXiv 1512.00567 for the smoothing."""

    unit: ClassVar[str] = "labelled"

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = between("label_smoothing", label_smoothing, 0, 1)

    def needs_teacher(self) -> tuple[str, ...]:
        return ()

    def needs_batch(self) -> tuple[str, ...]:
        return ("labels",)

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        del teacher
        total = ce(student.logits, batch["labels"], label_smoothing=self.label_smoothing, reduction="sum")
        return LossValue(sum=total, count=self.count(batch))


class KL(ResponseLoss):
    """Forward (or reverse) KL times τ²; see `functional.kl`. Source: Hinton et al. 2015 (arXiv 1503.02531)."""

    def __init__(self, *, temperature: float = 2.0, direction: str = "forward") -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.direction = one_of("direction", direction, ("forward", "reverse"))

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        direction: Direction = "reverse" if self.direction == "reverse" else "forward"
        return kl(student_logits, teacher_logits, temperature=self.temperature, direction=direction, mask=mask, reduction="sum")


class ReverseKL(ResponseLoss):
    """Reverse KL times τ²; see `functional.reverse_kl`. Source: MiniLLM (arXiv 2306.08543)."""

    def __init__(self, *, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        return reverse_kl(student_logits, teacher_logits, temperature=self.temperature, mask=mask, reduction="sum")


class JSD(ResponseLoss):
    """Jensen–Shannon divergence, normalised; see `functional.jsd`. Source: GKD (arXiv 2306.13649)."""

    def __init__(self, *, beta: float = 0.5, temperature: float = 2.0, is_normalised: bool = True) -> None:
        super().__init__()
        self.beta = between("beta", beta, 0, 1)
        self.temperature = positive("temperature", temperature)
        self.is_normalised = is_normalised

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        return jsd(
            student_logits,
            teacher_logits,
            beta=self.beta,
            temperature=self.temperature,
            is_normalised=self.is_normalised,
            mask=mask,
            reduction="sum",
        )


class SkewKL(ResponseLoss):
    """Skewed KL; see `functional.skew_kl`. Source: DistiLLM (arXiv 2402.03898)."""

    def __init__(self, *, alpha: float = 0.1, temperature: float = 2.0) -> None:
        super().__init__()
        self.alpha = between("alpha", alpha, 0, 1)
        self.temperature = positive("temperature", temperature)

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        return skew_kl(student_logits, teacher_logits, alpha=self.alpha, temperature=self.temperature, mask=mask, reduction="sum")


class SkewReverseKL(ResponseLoss):
    """Skewed reverse KL; see `functional.skew_reverse_kl`. Source: DistiLLM (arXiv 2402.03898)."""

    def __init__(self, *, alpha: float = 0.1, temperature: float = 2.0) -> None:
        super().__init__()
        self.alpha = between("alpha", alpha, 0, 1)
        self.temperature = positive("temperature", temperature)

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        return skew_reverse_kl(
            student_logits, teacher_logits, alpha=self.alpha, temperature=self.temperature, mask=mask, reduction="sum"
        )


class TVD(ResponseLoss):
    """Total variation distance; see `functional.tvd`. Source: Wen et al. 2023 (arXiv 2307.15190)."""

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        return tvd(student_logits, teacher_logits, temperature=self.temperature, mask=mask, reduction="sum")


class LogitMSE(ResponseLoss):
    """Mean squared difference of logits; see `functional.logit_mse`. Source: Ba and Caruana 2014 (arXiv 1312.6184)."""

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        return logit_mse(student_logits, teacher_logits, mask=mask, reduction="sum")


class SoftCE(ResponseLoss):
    """Cross-entropy with soft targets; see `functional.soft_ce`. Source: Hinton et al. 2015 (arXiv 1503.02531)."""

    def __init__(self, *, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        return soft_ce(student_logits, teacher_logits, temperature=self.temperature, mask=mask, reduction="sum")
