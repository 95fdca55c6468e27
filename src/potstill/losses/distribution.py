"""Response losses that look at the whole distribution: its correlations, its scale, its levels, its sorted form.

Shapes: B batch, T tokens, C classes. p is the teacher's distribution at temperature τ, q the student's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.errors import RecipeError
from potstill.ground.precision import finite, full_precision, log_probabilities
from potstill.losses.contract import LossValue, Shapes, StudentView
from potstill.losses.divergences import kl
from potstill.losses.options import between, positive
from potstill.losses.reduction import Reduction, divergence, of_batch, over_rows
from potstill.losses.response import ResponseLoss, TemperatureLoss, logit_mask


@full_precision
def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """τ² [β mean_rows (1 − ρ(p_i, q_i)) + γ mean_classes (1 − ρ(p_·c, q_·c))], ρ Pearson's correlation.

    1 − ρ is computed as half the squared distance of the standardised vectors; where a vector is constant and ρ has no
    value, it is 0 if both are, else ½.
    Source: Huang et al. 2022 (arXiv 2205.10536).

    Args:
        student_logits: [B, C] or [B, T, C]; of the latter all real tokens make one batch.
        teacher_logits: The same shape.
        beta: Weight of the correlation within rows.
        gamma: Weight of the correlation within classes, over the batch.
        temperature: τ.
        reduction: The value belongs to the batch; "sum" is B times it.
    """
    p = log_probabilities(teacher_logits, temperature, mask).exp().flatten(0, -2)
    q = log_probabilities(student_logits, temperature, mask).exp().flatten(0, -2)
    kept = torch.ones(p.shape[0], 1, device=p.device, dtype=p.dtype) if mask is None else mask.reshape(-1, 1).to(p.dtype)
    within_rows = (one_minus_correlation(p, q, -1) * kept.squeeze(-1)).sum() / kept.sum().clamp(min=1)
    within_classes = one_minus_correlation(p, q, 0, kept).mean()
    value = temperature**2 * (beta * within_rows + gamma * within_classes)
    return of_batch(value, student_logits.shape[0], reduction)


def one_minus_correlation(first: Tensor, second: Tensor, axis: int, kept: Tensor | None = None) -> Tensor:
    """1 − Pearson's correlation along `axis`, over the entries where `kept` is one."""
    weight = torch.ones_like(first[:1, :1]) if kept is None else kept
    size = first.shape[axis] if kept is None else kept.sum().clamp(min=1)
    centred = [(value - (value * weight).sum(axis, keepdim=True) / size) * weight for value in (first, second)]
    chord = F.normalize(centred[0], dim=axis, eps=1e-8) - F.normalize(centred[1], dim=axis, eps=1e-8)
    return 0.5 * chord.square().sum(axis)


@full_precision
def logit_std_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 2.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """τ² KL between softmaxes of standardised logits (z − mean) / (τ · std), so that only their shape is learned.

    Source: Sun et al. 2024 (arXiv 2403.01265); std divides by C as in the paper.

    Args:
        student_logits: [B, C] or [B, T, C], C at least 3.
        teacher_logits: The same shape.
        temperature: Base temperature τ.
    """
    student, teacher = (standardised(finite(logits, mask)) for logits in (student_logits, teacher_logits))
    return kl(student, teacher, temperature=temperature, mask=mask, reduction=reduction)


def standardised(logits: Tensor) -> Tensor:
    """(z − mean) / std over the last axis; zero where all are equal."""
    centred = logits - logits.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-14).rsqrt()


@full_precision
def mlkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    reduction: Reduction = "mean",
) -> Tensor:
    """Multi-level distillation: per τ, τ² KL by instance + 1/B ‖ppᵀ − qqᵀ‖² by batch + 1/C ‖pᵀp − qᵀq‖² by class, summed over τ.

    Source: Jin et al. 2023, "Multi-level logit distillation" (CVPR), without its choice of confident samples.

    Args:
        student_logits: [B, C].
        teacher_logits: [B, C].
        temperatures: The τ that are summed over.
        reduction: The value belongs to the batch; "sum" is B times it.
    """
    num_rows, num_classes = student_logits.shape
    value = student_logits.new_zeros(())
    for temperature in temperatures:
        log_p, log_q = (log_probabilities(logits, temperature) for logits in (teacher_logits, student_logits))
        p, q = log_p.exp(), log_q.exp()
        by_batch = (p @ p.T - q @ q.T).square().sum() / max(num_rows, 1)
        by_class = (p.T @ p - q.T @ q).square().sum() / num_classes
        value = value + temperature**2 * divergence(log_p, log_q).mean() + by_batch + by_class
    return of_batch(value, num_rows, reduction)


@full_precision
def uld(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    teacher_mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Universal logit distillation: Σ_i |sort(p)_i − sort(q)_i|, across different vocabularies.

    The shorter distribution is filled with zeros, the longer sequence is cut. τ multiplies as for `tvd`.
    Source: Boizard et al. 2024 (arXiv 2402.12030) in its closed form.

    Args:
        student_logits: [B, C] or [B, T, C].
        teacher_logits: [B, C'] or [B, T', C'].
        temperature: τ.
        mask: [B, T], true on the student's real tokens.
        teacher_mask: [B, T'], true on the teacher's real tokens.
    """
    student_logits, teacher_logits, mask = _same_positions(student_logits, teacher_logits, mask, teacher_mask)
    q = log_probabilities(student_logits, temperature, mask).exp().sort(-1, descending=True).values
    p = log_probabilities(teacher_logits, temperature, mask).exp().sort(-1, descending=True).values
    width = max(p.shape[-1], q.shape[-1])
    difference = F.pad(p, (0, width - p.shape[-1])) - F.pad(q, (0, width - q.shape[-1]))
    return over_rows(temperature * difference.abs().sum(-1), mask, reduction)


def _same_positions(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, teacher_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    if student_logits.dim() < 3:
        return student_logits, teacher_logits, mask
    length = min(student_logits.shape[1], teacher_logits.shape[1])
    masks = [item[:, :length].bool() for item in (mask, teacher_mask) if item is not None]
    both = masks[0] & masks[1] if len(masks) == 2 else (masks[0] if masks else None)
    return student_logits[:, :length], teacher_logits[:, :length], both


class DIST(ResponseLoss):
    """Correlation of rows and of classes; see `functional.dist`. Source: Huang et al. 2022 (arXiv 2205.10536)."""

    min_classes: ClassVar[int] = 2
    formula = staticmethod(dist)

    def __init__(self, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        self.beta, self.gamma = between("beta", beta, 0, 1e6), between("gamma", gamma, 0, 1e6)
        self.temperature = positive("temperature", temperature)


class LogitStdKL(TemperatureLoss):
    """KL of standardised logits; see `functional.logit_std_kl`. Source: Sun et al. 2024 (arXiv 2403.01265)."""

    min_classes: ClassVar[int] = 3
    formula = staticmethod(logit_std_kl)


class MLKD(ResponseLoss):
    """Multi-level distillation; see `functional.mlkd`. Source: Jin et al. 2023 (CVPR)."""

    of_rows: ClassVar[bool] = True
    formula = staticmethod(mlkd)

    def __init__(self, *, temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0)) -> None:
        super().__init__()
        if isinstance(temperatures, (str, int, float)) or not temperatures:
            raise RecipeError(f"temperatures is {temperatures!r}", "a list of numbers above 0", "leave it out")
        self.temperatures = tuple(positive("temperatures", temperature) for temperature in temperatures)


class ULD(TemperatureLoss):
    """Sorted distributions across vocabularies; see `functional.uld`. Source: Boizard et al. 2024 (arXiv 2402.12030)."""

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        """Any two numbers of outputs are accepted."""

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        theirs, mask = self.teacher_logits(teacher), logit_mask(student)
        their_mask = student.unit_mask
        if teacher is not None and their_mask is None and student.logits.dim() == 3:
            their_mask = teacher.token_mask
        total = uld(student.logits, theirs, temperature=self.temperature, mask=mask, teacher_mask=their_mask, reduction="sum")
        return LossValue(sum=total, count=float(student.logits.shape[0]))


class CTKD(ResponseLoss):
    """Curriculum temperature: τ² KL at a learned τ, which gradient reversal drives to make the task harder.

    τ = low + (high − low) · sigmoid(θ); the gradient of θ is turned round and scaled by λ, which rises from 0 to 1 along
    half a cosine over `warmup_steps` forwards in training. θ starts at 1, as in the authors' code: τ = 15.6.
    Source: Li et al. 2023 (arXiv 2211.16231), the global temperature.

    Args:
        low: Smallest τ.
        high: Largest τ.
        warmup_steps: Forwards until λ is 1; 0 starts there.
    """

    step: Tensor

    def __init__(self, *, low: float = 1.0, high: float = 21.0, warmup_steps: int = 0) -> None:
        super().__init__()
        self.low, self.high = positive("low", low), positive("high", high)
        self.warmup_steps = warmup_steps
        self.position = nn.Parameter(torch.ones(()))
        self.register_buffer("step", torch.zeros((), dtype=torch.float32))

    def learned_temperature(self) -> Tensor:
        """τ as a scalar tensor, its gradient reversed."""
        progress = (self.step / self.warmup_steps).clamp(max=1) if self.warmup_steps else torch.ones_like(self.step)
        strength = 0.5 * (1 - torch.cos(math.pi * progress))
        reversed_position = (1 + strength) * self.position.detach() - strength * self.position
        return self.low + (self.high - self.low) * reversed_position.float().sigmoid()

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over rows, and the temperature as a metric."""
        value = super().forward(student, teacher, batch)
        return LossValue(value.sum, value.count, {"temperature": self.learned_temperature().detach()})

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        temperature = self.learned_temperature()
        if self.training:
            self.step += 1
        return ctkd(student_logits, teacher_logits, temperature, mask=mask, reduction="sum")


@full_precision
def ctkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """τ² KL(p ‖ q) at a temperature that is a tensor with a gradient; the module `ctkd` turns that gradient round.

    Source: Li et al. 2023 (arXiv 2211.16231). Shapes and reduction as in `kl`; τ is a scalar or broadcasts.
    """
    return kl(student_logits, teacher_logits, temperature=temperature, mask=mask, reduction=reduction)
