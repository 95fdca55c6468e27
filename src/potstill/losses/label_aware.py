"""Response losses that treat the true class apart from the others, or correct the teacher where it is wrong.

Shapes: B batch, T tokens, C classes. Logits are [B, C] or [B, T, C], labels [B] or [B, T] with -100 for none.
y is the label, p the teacher's distribution at temperature τ, q the student's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.ground.precision import FLOOR, finite, full_precision, log_probabilities
from potstill.losses.contract import IGNORED_LABEL
from potstill.losses.options import between, positive
from potstill.losses.reduction import Reduction, divergence, known_labels, over_labelled, over_rows
from potstill.losses.response import LabelLoss, ResponseLoss, TemperatureLoss


@full_precision
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Decoupled distillation: τ² [α KL((p_y, 1−p_y) ‖ (q_y, 1−q_y)) + β KL(p̂ ‖ q̂)], p̂ over the classes other than y.

    Computed from log-probabilities throughout, so that a confident model gives a finite value.
    Source: Zhao et al. 2022 (arXiv 2203.08679).

    Args:
        student_logits: [B, C] or [B, T, C], C at least 3.
        teacher_logits: The same shape.
        labels: [B] or [B, T].
        alpha: Weight of the target-class term.
        beta: Weight of the term over the other classes.
        temperature: τ.
        reduction: Over labelled units.
    """
    target = target_index(known_labels(labels, student_logits.shape[-1]))
    student, teacher = (finite(logits).flatten(0, -2) / temperature for logits in (student_logits, teacher_logits))
    target_term = divergence(binary_log_probabilities(teacher, target), binary_log_probabilities(student, target))
    other_term = divergence(other_log_probabilities(teacher, target), other_log_probabilities(student, target))
    return over_labelled(temperature**2 * (alpha * target_term + beta * other_term), labels, reduction)


@full_precision
def nkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Normalised distillation −p_y log q_y − γ τ² Σ_{i≠y} p̂_i log q̂_i, p and q of the first term at temperature 1.

    Source: Yang et al. 2023 (arXiv 2303.13005). Shapes as in `dkd`.
    """
    target = target_index(known_labels(labels, student_logits.shape[-1]))
    student, teacher = (finite(logits).flatten(0, -2) for logits in (student_logits, teacher_logits))
    p_target = F.softmax(teacher, -1).gather(-1, target).squeeze(-1)
    log_q_target = F.log_softmax(student, -1).gather(-1, target).squeeze(-1)
    log_p, log_q = (other_log_probabilities(logits / temperature, target) for logits in (teacher, student))
    others = -(log_p.exp() * log_q).sum(-1)
    return over_labelled(-p_target * log_q_target + gamma * temperature**2 * others, labels, reduction)


@full_precision
def wsld(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 2.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Weighted soft labels: (1 − exp(−CE_s / CE_t)) τ² KL(p ‖ q), the weight from hard-label losses, without gradient.

    Source: Zhou et al. 2021 (arXiv 2102.00650), with KL for its soft cross-entropy (the same gradient).
    Shapes as in `dkd`.
    """
    student, teacher = (finite(logits).flatten(0, -2) for logits in (student_logits, teacher_logits))
    target = target_index(known_labels(labels, student_logits.shape[-1])).squeeze(-1)
    with torch.no_grad():
        teacher_ce = F.cross_entropy(teacher, target, reduction="none").clamp(min=1e-7)
        weight = -torch.expm1(-F.cross_entropy(student, target, reduction="none") / teacher_ce)
    values = divergence(F.log_softmax(teacher / temperature, -1), F.log_softmax(student / temperature, -1))
    return over_labelled(weight * temperature**2 * values, labels, reduction)


@full_precision
def tf_kd(
    student_logits: Tensor,
    labels: Tensor,
    *,
    correct_probability: float = 0.99,
    temperature: float = 20.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Teacher-free distillation from a designed teacher: τ² KL(p^d_τ ‖ q_τ), p^d(y) = a, p^d(other) = (1−a)/(C−1).

    Both sides are softened by τ (p^d_τ ∝ (p^d)^{1/τ}), so the optimum is q = p^d at every τ. The authors' code takes
    softmax(p^d / τ), a distribution that is even but for a percent, against q itself and without τ²: nearly a pull to even
    answers, for which `ce` with label_smoothing is the plain name.
    Source: Yuan et al. 2020 (arXiv 1909.11723). Shapes and reduction as in `dkd`, a is `correct_probability`.
    """
    student = finite(student_logits).flatten(0, -2)
    log_teacher = _smoothed(student, target_index(known_labels(labels, student_logits.shape[-1])), correct_probability)
    values = divergence(F.log_softmax(log_teacher / temperature, -1), F.log_softmax(student / temperature, -1))
    return over_labelled(temperature**2 * values, labels, reduction)


@full_precision
def label_smoothing_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    correct_probability: float = 0.9,
    temperature: float = 2.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """τ² KL(p' ‖ q), p' the teacher, but where its first choice is wrong the smoothed label (a for y, the rest equal).

    Units without a label keep the teacher's distribution.
    Source: Wen et al. 2019, knowledge adjustment by label smoothing (arXiv 1911.07471).
    Shapes as in `dkd`; a is `correct_probability`; reduction over rows.
    """
    log_p, log_q, target = _adjustable(student_logits, teacher_logits, labels, temperature, mask)
    smoothed = _smoothed(log_p, target, correct_probability)
    log_p = torch.where(_is_wrong(log_p, labels).unsqueeze(-1), smoothed, log_p)
    return over_rows(temperature**2 * divergence(log_p, log_q), mask, reduction)


@full_precision
def probability_shift(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 2.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """τ² KL(p' ‖ q), p' the teacher with the probabilities of y and of its first choice exchanged where it is wrong.

    Source: Wen et al. 2019, knowledge adjustment by probability shift (arXiv 1911.07471).
    Shapes as in `label_smoothing_kd`.
    """
    log_p, log_q, target = _adjustable(student_logits, teacher_logits, labels, temperature, mask)
    first = log_p.argmax(-1, keepdim=True)
    shifted = log_p.scatter(-1, target, log_p.gather(-1, first)).scatter(-1, first, log_p.gather(-1, target))
    log_p = torch.where(_is_wrong(log_p, labels).unsqueeze(-1), shifted, log_p)
    return over_rows(temperature**2 * divergence(log_p, log_q), mask, reduction)


@full_precision
def cs_kd(student_logits: Tensor, labels: Tensor, *, temperature: float = 4.0, reduction: Reduction = "mean") -> Tensor:
    """τ² KL(q' ‖ q), q' what the student says of another row of the same class, without a gradient.

    The other row is the next one of the class in the batch, and the first for the last; a row that is alone in its class or
    has no label carries no loss.

    Source: Yun et al. 2020, class-wise self-knowledge distillation (arXiv 2003.13964), eq. 2 and 3. The paper draws a second
    batch that is a target alone; here both rows of a pair learn, from one forward.

    Args:
        student_logits: [B, C].
        labels: [B], -100 where there is none.
        temperature: τ.
        reduction: "none" ([B]), "sum", or "mean" over the rows that have a partner.
    """
    partner, has_partner = partners(known_labels(labels))
    log_q = log_probabilities(student_logits, temperature)
    log_p = log_probabilities(finite(student_logits.detach())[partner], temperature)
    values = torch.where(has_partner, temperature**2 * divergence(log_p, log_q), log_q.new_zeros(()))
    if reduction == "mean":
        return values.sum() / has_partner.sum().clamp(min=1)
    return over_rows(values, None, reduction)


def partners(labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each of [B] labels the position of the next row with the same label, in a circle, and whether there is one."""
    order = labels.argsort(stable=True)
    ranked = labels[order]
    is_first = torch.ones_like(ranked, dtype=torch.bool)
    is_first[1:] = ranked[1:] != ranked[:-1]
    places = torch.arange(len(labels), device=labels.device)
    starts = torch.where(is_first, places, 0).cummax(0).values  # of each row the first place of its label
    following = torch.arange(1, len(labels) + 1, device=labels.device)
    is_last = torch.ones_like(is_first)
    is_last[:-1] = is_first[1:]
    partner = torch.empty_like(order)
    partner[order] = order[torch.where(is_last, starts, following.clamp(max=len(labels) - 1))]
    return partner, (partner != places) & (labels != IGNORED_LABEL)


def target_index(labels: Tensor) -> Tensor:
    """Labels as an index [N, 1] that is valid where there is none."""
    return labels.flatten().clamp(min=0).unsqueeze(-1)


def binary_log_probabilities(logits: Tensor, target: Tensor) -> Tensor:
    """[N, 2]: log p_y and log(1 − p_y), from logits [N, C] without subtracting probabilities."""
    log_p = F.log_softmax(logits, -1)
    others = log_p.scatter(-1, target, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([log_p.gather(-1, target), others.clamp(min=10 * FLOOR)], -1)


def other_log_probabilities(logits: Tensor, target: Tensor) -> Tensor:
    """[N, C]: log-probabilities over the classes other than the target, whose own is far below zero."""
    return F.log_softmax(logits.scatter(-1, target, 10 * FLOOR), -1)


def _adjustable(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    known_labels(labels, student_logits.shape[-1])
    log_p = F.log_softmax(finite(teacher_logits, mask) / temperature, -1)
    log_q = F.log_softmax(finite(student_logits, mask) / temperature, -1)
    return log_p, log_q, labels.clamp(min=0).unsqueeze(-1)


def _smoothed(like: Tensor, target: Tensor, correct_probability: float) -> Tensor:
    """Log-probabilities of the smoothed label: one for the target, the rest shared by the other classes."""
    others = max(like.shape[-1] - 1, 1)
    smoothed = torch.full_like(like, math.log(max((1 - correct_probability) / others, 1e-30)))
    return smoothed.scatter(-1, target, math.log(correct_probability))


def _is_wrong(log_p: Tensor, labels: Tensor) -> Tensor:
    return (labels != IGNORED_LABEL) & (log_p.argmax(-1) != labels)


class LabelledLoss(ResponseLoss):
    """Base of response losses over labelled units."""

    unit: ClassVar[str] = "labelled"
    reads_labels: bool = True


class DKD(LabelledLoss):
    """Decoupled distillation; see `functional.dkd`. Source: Zhao et al. 2022 (arXiv 2203.08679).

    The paper's β is 8 by default, 2 or 6 for some CIFAR pairs, 0.5 on ImageNet.
    """

    min_classes: ClassVar[int] = 3
    formula = staticmethod(dkd)

    def __init__(self, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        self.alpha, self.beta = between("alpha", alpha, 0, 1e6), between("beta", beta, 0, 1e6)
        self.temperature = positive("temperature", temperature)


class NKD(LabelledLoss):
    """Normalised distillation; see `functional.nkd`. Source: Yang et al. 2023 (arXiv 2303.13005)."""

    min_classes: ClassVar[int] = 3
    formula = staticmethod(nkd)

    def __init__(self, *, gamma: float = 1.5, temperature: float = 1.0) -> None:
        super().__init__()
        self.gamma = between("gamma", gamma, 0, 1e6)
        self.temperature = positive("temperature", temperature)


class WSLD(LabelledLoss, TemperatureLoss):
    """Weighted soft labels; see `functional.wsld`. Source: Zhou et al. 2021 (arXiv 2102.00650)."""

    formula = staticmethod(wsld)


class SmoothedLabelLoss(ResponseLoss):
    """Base of losses with a designed distribution: a for the true class, the rest equal."""

    min_classes: ClassVar[int] = 2
    reads_labels: bool = True

    def __init__(self, *, correct_probability: float, temperature: float) -> None:
        super().__init__()
        self.correct_probability = positive("correct_probability", between("correct_probability", correct_probability, 0, 1))
        self.temperature = positive("temperature", temperature)


class TfKD(LabelLoss, SmoothedLabelLoss):
    """Teacher-free distillation; see `functional.tf_kd`. Source: Yuan et al. 2020 (arXiv 1909.11723)."""

    unit: ClassVar[str] = "labelled"
    formula = staticmethod(tf_kd)

    def __init__(self, *, correct_probability: float = 0.99, temperature: float = 20.0) -> None:
        super().__init__(correct_probability=correct_probability, temperature=temperature)


class LabelSmoothingKD(SmoothedLabelLoss):
    """The teacher corrected by the smoothed label; see `functional.label_smoothing_kd`. Source: arXiv 1911.07471."""

    formula = staticmethod(label_smoothing_kd)

    def __init__(self, *, correct_probability: float = 0.9, temperature: float = 2.0) -> None:
        super().__init__(correct_probability=correct_probability, temperature=temperature)


class ProbabilityShift(TemperatureLoss):
    """The teacher corrected by an exchange; see `functional.probability_shift`. Source: arXiv 1911.07471."""

    reads_labels: bool = True
    formula = staticmethod(probability_shift)


class CSKD(LabelLoss):
    """Agreement between rows of a class; see `functional.cs_kd`. Source: Yun et al. 2020 (arXiv 2003.13964).

    It counts rows that have another of their class in the micro-batch; `DistillationTrainer(class_pairs=True)` gives one to each.
    """

    of_rows: ClassVar[bool] = True
    formula = staticmethod(cs_kd)

    def __init__(self, *, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def count(self, batch: Mapping[str, Any]) -> Tensor | float:
        """Rows with a partner."""
        return partners(batch["labels"])[1].sum()
