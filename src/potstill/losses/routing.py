"""Which block of the teacher to learn from, chosen anew in every step by similarity.

Shapes: B batch, T tokens, D width, C channels, H height, W width of a map, S student blocks, L teacher blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, RecipeError
from potstill.ground.precision import full_precision
from potstill.losses.contract import Loss, LossValue, Shapes, StudentView
from potstill.losses.feature import cosine, hidden_mse
from potstill.losses.layers import (
    PROJECT_CHOICES,
    build_bridge,
    loss_name,
    mask_for,
    other_tokens,
    positions_of,
    refuse_ranks,
    shape_of,
    teacher_taps,
    unique,
)
from potstill.losses.options import one_of, positive, tap_name
from potstill.losses.reduction import Reduction
from potstill.models.cka import LEAST_ROWS_DEBIASED, cka_matrix, row_vectors

DISTANCES = ("mse", "cosine")
MIXES = ("softmax", "most_similar")
KEPT = 0.9  # of the running shares in each step


def routing_shares(
    student_rows: Sequence[Tensor], teacher_rows: Sequence[Tensor], *, temperature: float = 0.1, mix: str = "softmax"
) -> Tensor:
    """How much each student block learns from each teacher block, [S, L] with rows of sum one, without a gradient.

    softmax: softmax_l(CKA(s, l) / temperature); most_similar: 1 at the largest CKA.

    `student_rows` are S tensors [B, D], `teacher_rows` L of any widths.

    Raises:
        DataError: Fewer than 4 rows.
    """
    similarity = cka_matrix(student_rows, teacher_rows, debiased=True)
    if mix == "most_similar":
        return torch.zeros_like(similarity).scatter_(1, similarity.argmax(1, keepdim=True), 1.0)
    return (similarity / temperature).softmax(1)


@full_precision
def routed(
    student_hidden: Tensor,
    teacher_hiddens: Sequence[Tensor],
    *,
    shares: Tensor,
    distance: str = "mse",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Distance of a student block from the mix Σ_l share_l · t_l of teacher blocks, by `hidden_mse` or `cosine`.

    Source: ours, after the learned assignments of ALP-KD (Passban et al. 2021, arXiv 2012.14022, eq. 4), with CKA for its dot
    products, so that widths may differ and no gradient flows into the choice.

    Args:
        student_hidden: [B, T, D] or [B, C, H, W], already in the teacher's width.
        teacher_hiddens: L values of the same shape.
        shares: [L], of sum one; see `routing_shares`.
        distance: "mse" or "cosine".
    """
    target = torch.stack([share * hidden for share, hidden in zip(shares.unbind(), teacher_hiddens, strict=True)]).sum(0)
    compare = cosine if distance == "cosine" else hidden_mse
    return compare(student_hidden, target.to(student_hidden.dtype), mask=mask, reduction=reduction)


class Routed(Loss):
    """Each student block learns from those teacher blocks that it resembles in this step; see `functional.routed`.

    Similarity is a relation between the rows of a micro-batch, as in `rkd_distance`, so the choice depends on how the batch is
    cut; batches of fewer than 4 rows, and evaluation, take the running mean of the choices, which checkpoints keep.
    Source: ours, after ALP-KD (arXiv 2012.14022).

    Args:
        student_layers: Blocks of the student.
        teacher_layers: Blocks of the teacher to choose from, all of one shape.
        temperature: Of the softmax over similarities.
        mix: "softmax" or "most_similar".
        distance: "mse" or "cosine".
    """

    kind: ClassVar[str] = "feature"
    shares: Tensor

    def __init__(
        self,
        *,
        student_layers: Sequence[int | str] = (-1,),
        teacher_layers: Sequence[int | str] = (-2, -1),
        temperature: float = 0.1,
        mix: str = "softmax",
        distance: str = "mse",
        project: str = "auto",
    ) -> None:
        super().__init__()
        self.student_taps = _taps("student_layers", student_layers)
        self.teacher_taps = _taps("teacher_layers", teacher_layers)
        self.temperature = positive("temperature", temperature)
        self.mix, self.distance = one_of("mix", mix, MIXES), one_of("distance", distance, DISTANCES)
        self.project = one_of("project", project, PROJECT_CHOICES)
        self.bridges = nn.ModuleList()
        count = len(self.teacher_taps)
        self.register_buffer("shares", torch.full((len(self.student_taps), count), 1.0 / count, dtype=torch.float64))

    def needs_student(self) -> tuple[str, ...]:
        return self.student_taps

    def needs_teacher(self) -> tuple[str, ...]:
        return self.teacher_taps

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        theirs = [shape_of(teacher, tap, "teacher", self) for tap in self.teacher_taps]
        if len({shape[1:] for shape in theirs}) > 1:
            raise NeedsError(
                f"{loss_name(self)} mixes blocks of the teacher, which have the shapes {sorted({shape[1:] for shape in theirs})}",
                "blocks of one shape, as a transformer has",
                "name such blocks in teacher_layers, or take hidden_mse with layers: auto",
            )
        bridges = []
        for tap in self.student_taps:
            own = shape_of(student, tap, "student", self)
            names = f"student {tap} {list(own)} and teacher {self.teacher_taps[0]} {list(theirs[0])}"
            refuse_ranks(self, own, theirs[0], names, (3, 4))
            if positions_of(own) != positions_of(theirs[0]):
                raise other_tokens(self, names)
            bridges.append(build_bridge(own, theirs[0], self.project, names=f"{loss_name(self)}: {names}"))
        self.bridges = nn.ModuleList(bridges)

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Mean over student blocks of the sum over rows, and the mean teacher block that each one chose."""
        known = teacher_taps(teacher)
        theirs = [known[tap].detach() for tap in self.teacher_taps]
        ours = [student.taps[tap] for tap in self.student_taps]
        shares = self._chosen(ours, theirs, student.token_mask).to(student.logits.device)
        terms = []
        for index, own in enumerate(ours):
            value = self.bridges[index](own) if index < len(self.bridges) else own
            mask = mask_for(value, student.token_mask)
            terms.append(routed(value, theirs, shares=shares[index].float(), distance=self.distance, mask=mask, reduction="sum"))
        places = torch.arange(1, len(theirs) + 1, device=shares.device, dtype=shares.dtype)
        metrics = {f"{tap} from": (shares[index] * places).sum() for index, tap in enumerate(self.student_taps)}
        return LossValue(torch.stack(terms).mean(), float(student.logits.shape[0]), metrics)

    def _chosen(self, ours: list[Tensor], theirs: list[Tensor], token_mask: Tensor | None) -> Tensor:
        if not self.training or ours[0].shape[0] < LEAST_ROWS_DEBIASED:
            return self.shares
        rows = [[row_vectors(value, mask_for(value, token_mask)) for value in side] for side in (ours, theirs)]
        shares = routing_shares(rows[0], rows[1], temperature=self.temperature, mix=self.mix).to(self.shares.device)
        self.shares.mul_(KEPT).add_(shares, alpha=1 - KEPT)
        return shares


def _taps(name: str, layers: Sequence[int | str]) -> tuple[str, ...]:
    right = isinstance(layers, (list, tuple)) and layers and all(isinstance(each, (int, str)) for each in layers)
    if not right:
        raise RecipeError(
            f"{name} is {layers!r}", "a list of blocks, from 1, or from the end as -1", f"write for example {name}: [1, 2, 3]"
        )
    return unique(tap_name("hidden", each) for each in layers)
