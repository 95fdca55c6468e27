"""What a teacher knows of its rows under rotation, taken over by the student.

Shapes: B plain rows, M turned rows, E width of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.ground.precision import full_precision
from potstill.losses.contract import LossValue, Shapes, StudentView
from potstill.losses.layers import PairedLoss, shape_of, width_of
from potstill.losses.options import HEAD_INPUT, LayerPair, between, positive
from potstill.losses.reduction import Reduction, divergence, over_rows


@full_precision
def sskd(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    view: Tensor,
    *,
    temperature: float = 0.5,
    kept_share: float = 0.75,
    reduction: Reduction = "mean",
) -> Tensor:
    """τ² KL(A_t ‖ A_s) per turned row, A the softmax over the plain rows of cos(turned, plain) / τ.

    Of the rows in which the teacher does not find the plain row that was turned, the share where it ranks highest is kept.

    Source: Xu et al. 2020, SSKD (arXiv 2006.07114), eq. 5 to 7 and the selective transfer of section 3.3.

    Args:
        student_embedding: [B + M, E].
        teacher_embedding: [B + M, E'].
        view: [B + M], 0 for plain rows; the rows of every other view come in the order of the plain ones.
        temperature: τ.
        kept_share: Share of the wrong rows that is kept; the right ones always are.
        reduction: "none" gives [M] with 0 for rows left out, whose weight the kept ones carry, so that the mean over M is
            the mean over kept rows.
    """
    similarity, origin = similarities(teacher_embedding, view)
    log_a = F.log_softmax(similarity / temperature, -1)
    log_b = F.log_softmax(similarities(student_embedding, view)[0] / temperature, -1)
    kept = _kept(similarity, origin, kept_share)
    values = temperature**2 * divergence(log_a, log_b)
    return over_rows(values * kept * (len(kept) / kept.sum().clamp(min=1)), None, reduction)


def similarities(embedding: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines [M, B] of turned with plain rows, and the plain row [M] that each is a turn of."""
    unit = F.normalize(embedding, dim=-1)
    plain = view == 0
    turned = view[~plain]
    # The position of a row among those of its view.
    same_before = (turned.unsqueeze(0) == turned.unsqueeze(1)).tril(-1)
    return unit[~plain] @ unit[plain].T, same_before.sum(1)


def _kept(similarity: Tensor, origin: Tensor, share: float) -> Tensor:
    """[M] 1 for the rows that are taken over: those that the teacher solves, and the best of the others."""
    own = similarity.gather(-1, origin.unsqueeze(-1))
    rank = (similarity > own).sum(-1)
    wrong = rank > 0
    place = torch.where(wrong, rank, rank.max() + 1).argsort(stable=True).argsort(stable=True)
    return (~wrong | (place < (share * wrong.sum()).floor())).to(similarity.dtype)


class Projection(nn.Sequential):
    """Two layers of the input's width with a ReLU between them, as in the paper."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


class SSKD(PairedLoss):
    """Self-supervised transfer over turned images; see `functional.sskd`. Source: Xu et al. 2020 (arXiv 2006.07114).

    Each side's last feature goes through two layers of its own. Those of the teacher learn the pretext task, to find the
    plain row of a turned one (cross-entropy of A_t, eq. 4), together with the student, whose loss has no gradient into them; the
    paper trains them before, and the authors' code at a τ of 1. The teacher itself stays as it is.
    """

    kind: ClassVar[str] = "contrast"
    nearest: ClassVar[str] = "kl"
    of_vectors: ClassVar[bool] = True
    formula = staticmethod(sskd)

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT, temperature: float = 0.5, kept_share: float = 0.75) -> None:
        super().__init__(layers=layers)
        self.temperature = positive("temperature", temperature)
        self.kept_share = between("kept_share", kept_share, 0, 1)

    def needs_batch(self) -> tuple[str, ...]:
        return ("view",)

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        own, theirs = self.names()[0]
        widths = width_of(shape_of(student, own, "student", self)), width_of(shape_of(teacher, theirs, "teacher", self))
        self.bridges = nn.ModuleList(Projection(width) for width in widths)

    def count(self, batch: Mapping[str, Any]) -> Tensor | float:
        """Turned rows; none in batches without views, as those of evaluation."""
        return (batch["view"] > 0).sum() if "view" in batch else 0.0

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over turned rows."""
        if "view" not in batch:
            return LossValue(sum=student.logits.new_zeros(()), count=0.0)
        values, dtype = self.pairs(student, teacher)[0], next(self.bridges.parameters()).dtype
        own_embedding, their_embedding = (
            bridge(value.to(dtype)).float() for bridge, value in zip(self.bridges, values, strict=True)
        )
        view = batch["view"]
        transfer = self.formula(own_embedding, their_embedding.detach(), view, **self.arguments(), reduction="sum")
        similarity, origin = similarities(their_embedding, view)
        pretext = F.cross_entropy(similarity / self.temperature, origin, reduction="sum")
        solved = (similarity.detach().argmax(-1) == origin).float().mean()
        return LossValue(sum=transfer + pretext, count=self.count(batch), metrics={"pretext_accuracy": solved})
