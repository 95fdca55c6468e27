"""Losses that ask a student to agree with itself: with its average, and between rows of one class.

Shapes: B batch, T tokens, C classes, N units (rows, or rows × tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from potstill.ground.precision import finite, full_precision, log_probabilities
from potstill.losses.contract import IGNORED_LABEL
from potstill.losses.options import positive
from potstill.losses.reduction import Reduction, divergence, over_rows
from potstill.losses.response import LabelLoss, ResponseLoss


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
    partner, has_partner = partners(labels)
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


class ProbabilityMSE(ResponseLoss):
    """Mean squared difference of probabilities; see `functional.probability_mse`. Source: arXiv 1703.01780."""

    formula = staticmethod(probability_mse)


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
