"""Weights of several teachers, learned while the student learns.

Shapes: S teachers, B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.errors import ModelError
from potstill.knowledge.ensemble import EACH
from potstill.losses.contract import IGNORED_LABEL, Loss, LossValue, StudentView

SPEED = 30.0
LEAST_SHARE = 1e-3
GRADIENT_SHARE = 1e-3


class TeacherWeights(Loss):
    """One weight per teacher, w = softmax(30 · a), so that the mixture Σ_s w_s p_s says the labels: −log Σ_s w_s p_s(label).

    The labels alone move the weights, never the student: a weight that made the student's own loss small would favour the
    teacher that is easiest to imitate. The factor 30 lets them move at the student's learning rates; their gradient is scaled
    down, so that it takes no part of the student's in clipping, which an optimizer like Adam does not notice.

    *Source*: maximum likelihood of mixing weights, Jordan and Jacobs 1994, "Hierarchical mixtures of experts", without gates.
    Teachers that were trained on the same rows know them by heart, and the surest one is favoured then.

    Shapes: reads ``logits:each`` [B, S, C] of an `EnsembleTeacher` and ``labels`` [B]. Sum over labelled rows.

    Args:
        num_teachers: S.
        start: Weights to start from; equal where left out.

    Raises:
        ModelError: No teacher, or weights that do not fit.

    Example:
        weights = TeacherWeights(2)
        teacher = EnsembleTeacher([first, second], weights.shares)
        DistillationTrainer(student, args, teacher=teacher, losses=["kl", "ce", weights], …)
    """

    kind: ClassVar[str] = "response"
    unit: ClassVar[str] = "labelled"

    def __init__(self, num_teachers: int, start: Sequence[float] | None = None) -> None:
        super().__init__()
        given = torch.tensor(list(start) if start is not None else [1.0] * num_teachers, dtype=torch.float32)
        if (
            num_teachers < 1
            or len(given) != num_teachers
            or not bool((given >= 0).all())
            or not 0 < float(given.sum()) < float("inf")
        ):
            raise ModelError(
                f"the weights {given.tolist()} do not fit {num_teachers} teachers", "one weight ≥ 0 per teacher, not all 0"
            )
        self.scores = nn.Parameter((given / given.sum()).clamp_min(LEAST_SHARE).log() / SPEED)

    def shares(self) -> Tensor:
        """The weights [S], which sum to 1; what an `EnsembleTeacher` takes as its weights."""
        return self._log_shares().exp()

    def needs_student(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def needs_teacher(self) -> tuple[str, ...]:
        """Every teacher's log-probabilities."""
        return (EACH,)

    def needs_batch(self) -> tuple[str, ...]:
        """Labels."""
        return ("labels",)

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """−log Σ_s w_s p_s(label), summed over the labelled rows."""
        assert teacher is not None
        labels = batch["labels"]
        has_label = labels != IGNORED_LABEL
        index = labels.clamp_min(0)[:, None, None].expand(-1, len(self.scores), 1)
        at_label = teacher.taps[EACH].gather(-1, index)[..., 0]
        likelihood = torch.logsumexp(at_label + self._log_shares(), dim=-1)
        value = -torch.where(has_label, likelihood, 0.0).sum()
        shares = {f"teacher_{number}": share for number, share in enumerate(self.shares().detach(), start=1)}
        return LossValue(value.detach() + GRADIENT_SHARE * (value - value.detach()), has_label.sum(), shares)

    def _log_shares(self) -> Tensor:
        return (SPEED * self.scores).log_softmax(0)
