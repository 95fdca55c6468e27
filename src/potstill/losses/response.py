"""Response losses: the student's output against labels or the teacher's output; the base of all of them.

Shapes: B batch, T tokens, C classes. Logits are [B, C], or [B, T, C] with a mask [B, T]; then a row is the mean over its
real tokens. p is the teacher's distribution at temperature τ, q the student's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError
from potstill.ground.counted import counted
from potstill.ground.precision import finite, full_precision, log_probabilities
from potstill.losses.contract import IGNORED_LABEL, FormulaLoss, LossValue, Shapes, StudentView
from potstill.losses.layers import loss_name
from potstill.losses.options import between, positive
from potstill.losses.reduction import Reduction, alike, over_labelled, over_rows


@full_precision
def ce(student_logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: Reduction = "mean") -> Tensor:
    """Cross-entropy with hard labels: −log q(y), smoothed by ε: −(1−ε) log q(y) − ε/C Σ log q.

    Labels of -100 carry no loss; "mean" divides by the labelled units, "none" returns one value per unit.
    Source: Szegedy et al. 2016 (arXiv 1512.00567) for the smoothing.

    Args:
        student_logits: [B, C] or [B, T, C].
        labels: [B] or [B, T], int64.
        label_smoothing: ε.
    """
    flat = finite(student_logits).flatten(0, -2)
    values = F.cross_entropy(
        flat,
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return over_labelled(values, labels, reduction)


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
    alike(student_logits, teacher_logits)
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
    alike(student_logits, teacher_logits)
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
    alike(student_logits, teacher_logits)
    p = log_probabilities(teacher_logits, temperature, mask).exp()
    log_q = log_probabilities(student_logits, temperature, mask)
    return over_rows(-(temperature**2) * (p * log_q).sum(-1), mask, reduction)


@full_precision
def probability_mse(
    student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared difference of probabilities: 1/C Σ (q − p)², the consistency cost.

    Source: Tarvainen and Valpola 2017, Mean Teacher (arXiv 1703.01780), eq. 1 and appendix B. Shapes and reduction as in `kl`.
    """
    q = log_probabilities(student_logits, 1.0, mask).exp()
    p = log_probabilities(teacher_logits, 1.0, mask).exp()
    return over_rows((q - p).square().mean(-1), mask, reduction)


class ResponseLoss(FormulaLoss):
    """Base of losses that read the logits of both sides; refuses different numbers of classes.

    The labels are handed to the formula where the loss reads them.

    Attributes:
        min_classes: The fewest classes about which it says something.
    """

    kind: ClassVar[str] = "response"
    of_classes: ClassVar[bool] = True
    min_classes: ClassVar[int] = 1

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        if teacher is not None and self.needs_teacher() and student.logits[-1] != teacher.logits[-1]:
            outputs = "classes" if self.of_classes else "outputs"
            raise NeedsError(
                f"{loss_name(self)}: the student has {student.logits[-1]} outputs, the teacher {teacher.logits[-1]}",
                f"the same {outputs} in the same order on both sides",
                f"give the student the teacher's {outputs}{', or take the loss uld' if self.of_classes else ''}",
            )
        if student.logits[-1] < self.min_classes:
            raise NeedsError(
                f"{loss_name(self)} says nothing about {counted(student.logits[-1], 'class', 'classes')}",
                f"at least {self.min_classes} classes",
                "take the loss kl",
            )

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over the units of the loss."""
        total = self.compare(student.logits, self.teacher_logits(teacher), logit_mask(student), batch)
        return LossValue(sum=total, count=self.units(student, batch))

    def teacher_logits(self, teacher: TeacherSignal | None) -> Tensor:
        """The teacher's logits, without a gradient; refused where there is no teacher."""
        if teacher is None:
            raise NeedsError(f"{loss_name(self)} needs a teacher signal, there is none", todo="give the trainer a teacher")
        return teacher.logits.detach()

    def units(self, student: StudentView, batch: Mapping[str, Any]) -> Tensor | float:
        """Rows of the student's logits, or labelled units."""
        return float(student.logits.shape[0]) if self.unit == "rows" else self.count(batch)

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        """Sum over units of the formula."""
        labels = [batch["labels"]] if self.reads_labels else []
        return self.formula(student_logits, teacher_logits, *labels, **self.arguments(mask), reduction="sum")


class TemperatureLoss(ResponseLoss):
    """Base of response losses whose one option is the temperature τ."""

    def __init__(self, *, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)


def logit_mask(student: StudentView) -> Tensor | None:
    """The mask of units or tokens where the logits are per unit or token, else None."""
    if student.unit_mask is not None:
        return student.unit_mask
    return student.token_mask if student.logits.dim() == 3 else None


class LabelLoss(FormulaLoss):
    """Base of losses on probabilities of classes that read the labels alone."""

    of_classes: ClassVar[bool] = True
    reads_labels: bool = True

    def needs_teacher(self) -> tuple[str, ...]:
        return ()

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over units of the formula."""
        total = self.formula(student.logits, batch["labels"], **self.arguments(), reduction="sum")
        return LossValue(sum=total, count=self.count(batch))


class CE(LabelLoss):
    """Cross-entropy with the labels; see `functional.ce`. Source: arXiv 1512.00567 for the smoothing."""

    unit: ClassVar[str] = "labelled"
    formula = staticmethod(ce)

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = between("label_smoothing", label_smoothing, 0, 1)


class TVD(TemperatureLoss):
    """Total variation distance; see `functional.tvd`. Source: Wen et al. 2023 (arXiv 2307.15190)."""

    formula = staticmethod(tvd)

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)


class LogitMSE(ResponseLoss):
    """Mean squared difference of logits; see `functional.logit_mse`. Source: Ba and Caruana 2014 (arXiv 1312.6184)."""

    of_classes: ClassVar[bool] = False
    formula = staticmethod(logit_mse)


class SoftCE(TemperatureLoss):
    """Cross-entropy with soft targets; see `functional.soft_ce`. Source: Hinton et al. 2015 (arXiv 1503.02531)."""

    formula = staticmethod(soft_ce)


class ProbabilityMSE(ResponseLoss):
    """Mean squared difference of probabilities; see `functional.probability_mse`. Source: arXiv 1703.01780."""

    formula = staticmethod(probability_mse)
