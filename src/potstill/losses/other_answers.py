"""Response losses for answers that are no classes: sets of labels, numbers, embeddings.

Shapes: B batch, C labels or numbers per row, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, stack, where

from potstill.contracts.signal import TeacherSignal
from potstill.ground.precision import finite, full_precision
from potstill.losses.contract import IGNORED_LABEL, LossValue, StudentView
from potstill.losses.options import between, one_of, positive
from potstill.losses.reduction import Reduction, alike, divergence, of_batch, over_rows
from potstill.losses.response import ResponseLoss


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
    """
    alike(student_logits, teacher_logits)
    targets = (finite(teacher_logits) / positive("temperature", temperature)).sigmoid()
    values = F.binary_cross_entropy_with_logits(finite(student_logits) / temperature, targets, reduction="none")
    return over_rows(temperature**2 * values, mask, reduction)


@full_precision
def regression(
    student_values: Tensor, teacher_values: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared difference of predicted numbers.

    Source: Ba and Caruana 2014 (arXiv 1312.6184), on the output itself.

    Args:
        student_values: [B] or [B, C].
        teacher_values: The same shape.
        mask: [B] or [B, C], true on what counts.
    """
    alike(student_values, teacher_values)
    if mask is not None and mask.dim() == 1 and student_values.dim() > 1:
        mask = mask.view(-1, *[1] * (student_values.dim() - 1))
    return over_rows((student_values - teacher_values).square(), mask, reduction)


@full_precision
def bounded_regression(
    student_values: Tensor,
    teacher_values: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Squared error to the label, only where the student is not yet better than the teacher by a margin.

    ‖s − y‖² if ‖s − y‖² + m > ‖t − y‖², else 0.
    Source: Chen et al. 2017, "Learning efficient object detection models with knowledge distillation" (NeurIPS).

    Args:
        student_values: [B] or [B, C].
        teacher_values: The same shape.
        labels: The same shape, true values.
        margin: m, in squared units of the label.
    """
    alike(student_values, teacher_values, labels)
    student_error = (student_values - labels).square().reshape(len(labels), -1).sum(1)
    teacher_error = (teacher_values - labels).square().reshape(len(labels), -1).sum(1)
    bounded = where(student_error + margin > teacher_error, student_error, student_error.new_zeros(()))
    return over_rows(bounded, mask, reduction)


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


def scaled(values: Tensor, scale: Sequence[float] | None) -> Tensor:
    """Values [B, C] in units of `scale`, one per number or one for all; as they are without one."""
    if scale is None:
        return values
    # Made where the values are, because a copy would wait for the device.
    return values / stack([values.new_full((), unit) for unit in scale])


def checked_scale(scale: Sequence[float] | float | None) -> tuple[float, ...] | None:
    """The option `scale`, whose units must be above 0."""
    if scale is None:
        return None
    return tuple(positive("scale", float(unit)) for unit in (scale if isinstance(scale, Sequence) else (scale,)))


class TargetLoss(ResponseLoss):
    """Base of losses whose target is the teacher's output or the label, by the option `target`.

    With labels, rows that have none (-100 or NaN in every place) are not counted.
    """

    of_classes: ClassVar[bool] = False

    def __init__(self, *, target: str = "teacher") -> None:
        super().__init__()
        self.reads_labels = one_of("target", target, ("teacher", "labels")) == "labels"

    def reads_numbers(self) -> bool:
        return self.reads_labels

    def needs_teacher(self) -> tuple[str, ...]:
        return () if self.reads_labels else ("logits",)

    def count(self, batch: Mapping[str, Any]) -> Tensor | float:
        return labelled_rows(batch["labels"]).sum() if self.reads_labels else super().count(batch)

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over rows that have a target."""
        if not self.reads_labels:
            return super().forward(student, teacher, batch)
        labels = batch["labels"].view_as(student.logits)
        return LossValue(sum=self.from_labels(student.logits, labels), count=self.count(batch))

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        return self.formula(student_logits, teacher_logits, **self.arguments(), reduction="sum")

    def from_labels(self, student_logits: Tensor, labels: Tensor) -> Tensor:
        """Sum over labelled rows against the labels."""
        raise TypeError(f"{type(self).__name__} does not define from_labels")


def known_places(labels: Tensor) -> Tensor:
    """True where there is a label: neither -100 nor NaN; shaped as `labels`."""
    return (labels != IGNORED_LABEL) & ~labels.isnan()


def labelled_rows(labels: Tensor) -> Tensor:
    """[B], true on rows with a label in any place."""
    return known_places(labels).reshape(labels.shape[0], -1).any(1)


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


class Regression(TargetLoss):
    """Mean squared difference of predicted numbers; see `functional.regression`. Source: arXiv 1312.6184.

    Args:
        target: "teacher" or "labels" (-100 or NaN where there is none).
        scale: What one unit of error is, for each number or for all (usually the labels' standard deviation); None for 1.
    """

    formula = staticmethod(regression)

    def __init__(self, *, target: str = "teacher", scale: Sequence[float] | float | None = None) -> None:
        super().__init__(target=target)
        self.scale = checked_scale(scale)

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        return super().compare(scaled(student_logits, self.scale), scaled(teacher_logits, self.scale), mask, batch)

    def from_labels(self, student_logits: Tensor, labels: Tensor) -> Tensor:
        known = known_places(labels)
        values = scaled(labels.masked_fill(~known, 0).to(student_logits.dtype), self.scale)
        return regression(scaled(student_logits, self.scale), values, mask=known, reduction="sum")


class BoundedRegression(ResponseLoss):
    """Teacher-bounded regression on labelled rows; see `functional.bounded_regression`. Source: Chen et al. 2017.

    Args:
        margin: m, in squared units of the label, or of `scale`.
        scale: As for `Regression`.
    """

    unit: ClassVar[str] = "labelled"
    of_classes: ClassVar[bool] = False
    reads_labels: bool = True

    def __init__(self, *, margin: float = 0.0, scale: Sequence[float] | float | None = None) -> None:
        super().__init__()
        self.scale = checked_scale(scale)
        self.margin = between("margin", margin, 0, float("inf"))

    def reads_numbers(self) -> bool:
        return True

    def count(self, batch: Mapping[str, Any]) -> Tensor | float:
        return labelled_rows(batch["labels"]).sum()

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        labels = batch["labels"].view_as(student_logits)
        rows, labels = labelled_rows(labels), labels.masked_fill(~known_places(labels), 0).to(teacher_logits.dtype)
        values = [scaled(each, self.scale) for each in (student_logits, teacher_logits, labels)]
        return bounded_regression(*values, margin=self.margin, mask=rows, reduction="sum")


class OutputCosine(ResponseLoss):
    """Cosine distance of outputs; see `functional.output_cosine`. Source: arXiv 2004.09813."""

    of_classes: ClassVar[bool] = False
    formula = staticmethod(output_cosine)


class SimilarityKL(ResponseLoss):
    """Similarities of outputs within the batch; see `functional.similarity_kl`. Source: SEED (arXiv 2101.04731)."""

    of_classes: ClassVar[bool] = False

    def __init__(self, *, temperature: float = 0.05) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
        student_rows, teacher_rows = student_logits.flatten(1), teacher_logits.flatten(1)
        return similarity_kl(student_rows, teacher_rows, temperature=self.temperature, reduction="sum")
