"""Relation losses between layers: how a network's features flow from one layer to the next.

Shapes: B batch, T tokens, C channels, H height, W width of a map, P positions (T or H·W), k singular vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, RecipeError
from potstill.ground.precision import full_precision
from potstill.losses.contract import LossValue, StudentView
from potstill.losses.layers import BridgedLoss, loss_name, mask_for, match_maps
from potstill.losses.options import LayerPair, between
from potstill.losses.reduction import Reduction, over_rows
from potstill.losses.relation import positions

LAST_TWO: tuple[LayerPair, ...] = ((-2, -2), (-1, -1))
TERMS = 10
MORE = 3  # student vectors beyond k among which the teacher's are looked for
WEAK = 1e-6


@full_precision
def fsp(
    student_first: Tensor,
    student_second: Tensor,
    teacher_first: Tensor,
    teacher_second: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Flow of solution procedure: mean squared difference of G = F₁ᵀ F₂ / P between two layers, [C₁, C₂] per row.

    Source: Yim et al. 2017, "A gift from knowledge distillation" (CVPR).

    Args:
        student_first: [B, C₁, H, W] or [B, T, C₁], in the teacher's width.
        student_second: [B, C₂, H', W'] or [B, T, C₂]; the larger grid of both is pooled to the smaller.
        teacher_first: As the student's.
        teacher_second: As the student's.
    """
    student = [positions(value, mask) for value in match_maps(student_first, student_second)]
    teacher = [positions(value, mask) for value in match_maps(teacher_first, teacher_second)]
    counts = [float(side[0].shape[1]) if mask is None else mask.sum(1).clamp(min=1) for side in (student, teacher)]
    widths = student[0].shape[2] * student[1].shape[2]
    values = _flow_distance(*student, *teacher, *counts) / widths
    return over_rows(values, None if mask is None else mask.bool().any(1), reduction)


def _flow_distance(
    student_first: Tensor,
    student_second: Tensor,
    teacher_first: Tensor,
    teacher_second: Tensor,
    student_count: float | Tensor,
    teacher_count: float | Tensor,
) -> Tensor:
    """‖S₁ᵀS₂/P_s − T₁ᵀT₂/P_t‖² [B], by P × P products where those are smaller: ⟨S₁ᵀS₂, T₁ᵀT₂⟩ = ⟨S₁T₁ᵀ, S₂T₂ᵀ⟩."""
    own_count, other_count = (
        count.view(-1, 1, 1) if isinstance(count, Tensor) else count for count in (student_count, teacher_count)
    )
    width = min(student_first.shape[2], student_second.shape[2])
    if 2 * max(student_first.shape[1], teacher_first.shape[1]) >= width:
        own_flow = student_first.transpose(1, 2) @ student_second / own_count
        difference = own_flow - teacher_first.transpose(1, 2) @ teacher_second / other_count
        return difference.square().sum((1, 2))
    own = _inner(student_first, student_first, student_second, student_second) / student_count**2
    other = _inner(teacher_first, teacher_first, teacher_second, teacher_second) / teacher_count**2
    cross = _inner(student_first, teacher_first, student_second, teacher_second) / (student_count * teacher_count)
    return (own + other - 2 * cross).clamp(min=0)


def _inner(first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
    return ((first @ second.transpose(1, 2)) * (third @ fourth.transpose(1, 2))).sum((1, 2))


class FlowLoss(BridgedLoss):
    """Base of losses on each pair of consecutive entries of `layers`; their formula takes two values of each side."""

    kind: ClassVar[str] = "relation"
    ranks: ClassVar[tuple[int, ...]] = (3, 4)

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_TWO, project: str = "auto") -> None:
        super().__init__(layers=layers, project=project)
        if len(self.layers) < 2:
            raise RecipeError(f"layers is {layers!r}", "at least two pairs, a flow goes from one to the next", "add a pair")

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        super().check(student_shape, teacher_shape, names)
        if len(student_shape) == 4 and 0 in (*student_shape[2:], *teacher_shape[2:]):
            raise NeedsError(f"{loss_name(self)}: {names} hold no positions", "maps with positions", "change layers")

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Mean over flows of the sum over rows."""
        ours, teachers = zip(*self.pairs(student, teacher))
        students = [self.bridged(index, value) for index, value in enumerate(ours)]
        arguments = self.arguments(mask_for(teachers[0], student.token_mask))
        flows = [
            self.formula(*own, *other, **arguments, reduction="sum") for own, other in zip(pairwise(students), pairwise(teachers))
        ]
        return LossValue(sum=torch.stack(flows).mean(), count=float(student.logits.shape[0]))


class FSP(FlowLoss):
    """Flow between layers; see `functional.fsp`. Source: Yim et al. 2017 (CVPR)."""

    formula = staticmethod(fsp)


@full_precision
def kd_svd(
    student_first: Tensor,
    student_second: Tensor,
    teacher_first: Tensor,
    teacher_second: Tensor,
    *,
    num_vectors: int = 1,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Relation of singular vectors: mean squared difference of exp(−‖v₁ᵢ − v₂ⱼ‖² / 8) between the channels of two layers.

    v is the row of a channel in the k right singular vectors of the teacher's [P, C] feature, scaled by their share of its k
    singular values. Of the student's k + 3 strongest, each of them meets the one of largest cosine, in its sign and with its
    share: two directions of like strength may change places. The gradient goes through the chosen vectors alone.
    Source: Lee et al. 2018 (arXiv 1807.06819); over k numbers the distance is one of vectors, the paper's is one
    number each.

    Shapes as in `fsp`; k is `num_vectors`.
    """
    teacher, aligned = [], []
    for own, other in ((student_first, teacher_first), (student_second, teacher_second)):
        scales, vectors = top_singular(positions(other, mask), num_vectors)
        found: Tensor = NearestSingular.apply(positions(own, mask), vectors)  # type: ignore[no-untyped-call]
        teacher.append(scales.unsqueeze(1) * vectors)
        aligned.append(scales.unsqueeze(1) * found)
    is_one_number = teacher[0].shape[-1] == teacher[1].shape[-1] == 1 and teacher[0].device.type != "mps"
    distance = _radial_distance if is_one_number else _radial_distance_by_pairs
    return over_rows(distance(*aligned, *teacher), None if mask is None else mask.bool().any(1), reduction)


def _sign(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).to(values.dtype)


def _radial_distance_by_pairs(first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
    """[B], mean over channels i, j of (r(first_i, second_j) − r(third_i, fourth_j))², r(x, y) = exp(−‖x − y‖² / 8)."""
    return (_radial(first, second) - _radial(third, fourth)).square().mean((1, 2))


def _radial(first: Tensor, second: Tensor) -> Tensor:
    squared = first.square().sum(-1).unsqueeze(2) + second.square().sum(-1).unsqueeze(1) - 2 * first @ second.transpose(1, 2)
    return torch.exp(-squared.clamp(min=0) / 8)


def _radial_distance(first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
    """`_radial_distance_by_pairs` for one number per channel, in [−1, 1], without the C₁ × C₂ exponentials.

    exp(−(x − y)²/8) = Σ_n φ_n(x) φ_n(y) with φ_n(x) = exp(−x²/8) (x/2)^n / √n!; with |x|, |y| ≤ 1 what follows the tenth
    term is below 1e-12. ‖L Rᵀ‖² = Σ (LᵀL ∘ RᵀR) then needs products of 2 · `TERMS` columns; 64 bits, because near the end of
    training they almost cancel.
    """
    left = torch.cat([_expanded(first), _expanded(third)], -1)
    right = torch.cat([_expanded(second), -_expanded(fourth)], -1)
    products = (left.transpose(1, 2) @ left) * (right.transpose(1, 2) @ right)
    values = products.sum((1, 2)).clamp(min=0) / (first.shape[1] * second.shape[1])
    return values.to(first.dtype)


def _expanded(numbers: Tensor) -> Tensor:
    """φ_0 … φ_9 of numbers [B, C, 1]: [B, C, `TERMS`] in 64 bits."""
    numbers = numbers.double()
    terms = [torch.exp(-numbers.square() / 8)]
    for power in range(1, TERMS):
        terms.append(terms[-1] * (numbers / (2 * math.sqrt(power))))
    return torch.cat(terms, -1)


@torch.no_grad()
def top_singular(matrix: Tensor, num_vectors: int) -> tuple[Tensor, Tensor]:
    """Shares [B, k] of the k largest singular values, at length one, and right singular vectors [B, C, k] of M [B, P, C].

    A singular vector has no sign of its own; the side on which its sum is positive is taken.
    """
    squared, _, vectors = _decomposed(matrix, min(num_vectors, *matrix.shape[1:]))
    return F.normalize(squared[:, : vectors.shape[2]].sqrt(), dim=-1), vectors * _sign(vectors.sum(1, keepdim=True))


def _decomposed(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Squared singular values [B, n], largest first, eigenvectors [B, n, n] of the smaller of M Mᵀ and MᵀM, vectors [B, C, k]."""
    is_wide = matrix.shape[1] <= matrix.shape[2]
    gram = matrix @ matrix.transpose(1, 2) if is_wide else matrix.transpose(1, 2) @ matrix
    squared, basis = torch.linalg.eigh(gram)
    squared, basis = squared.flip(-1).clamp(min=0), basis.flip(-1)
    top = basis[:, :, :count]
    return squared, basis, F.normalize(matrix.transpose(1, 2) @ top, dim=1) if is_wide else top


class NearestSingular(torch.autograd.Function):
    """Of the k + 3 strongest right singular vectors of M [B, P, C], the nearest to each of [B, C, k], in its sign.

    Vectors without strength (a millionth of the first) are left out. The gradient, with the choice fixed, is exact where the
    singular values differ; gaps below a bound are held at it, so that equal values (dead channels, few positions) give a
    finite gradient.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, wanted: Tensor) -> Tensor:  # type: ignore[override]
        """Vectors [B, C, k]."""
        squared, basis, vectors = _decomposed(matrix, min(wanted.shape[2] + MORE, *matrix.shape[1:]))
        cosines = vectors.transpose(1, 2) @ wanted
        is_weak = squared[:, : vectors.shape[2]] <= WEAK * squared[:, :1]
        places = cosines.abs().masked_fill(is_weak.unsqueeze(-1), -1.0).argmax(1)
        signs = _sign(cosines.gather(1, places.unsqueeze(1)))
        chosen = vectors.gather(2, places.unsqueeze(1).expand(-1, vectors.shape[1], -1)) * signs
        ctx.save_for_backward(matrix, squared, basis, chosen, places)
        return chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """dM = M v xᵀ + M x vᵀ for x = (λI − MᵀM)⁺ dv."""
        matrix, squared, basis, vectors, places = ctx.saved_tensors
        moved = _moved(matrix, squared, basis, vectors, places, grad)
        return (matrix @ moved) @ vectors.transpose(1, 2) + (matrix @ vectors) @ moved.transpose(1, 2), None


def _moved(matrix: Tensor, squared: Tensor, basis: Tensor, vectors: Tensor, places: Tensor, grad: Tensor) -> Tensor:
    """(λ_k I − MᵀM)⁺ g_k [B, C, k] for the eigenvalue λ_k of each chosen vector, at `places` [B, k].

    With the eigenvectors U of M Mᵀ: [g + Mᵀ U diag(1/(λ_k − λ_j)) Uᵀ M g] / λ_k, g without its share of v_k.
    """
    bound = 1e-4 * squared[:, None, :1].clamp(min=1e-12)
    chosen = squared.gather(1, places).unsqueeze(1)
    gap = chosen - squared.unsqueeze(-1)
    gap = torch.where(gap.abs() < bound, torch.where(gap < 0, -bound, bound), gap)
    own = torch.zeros_like(gap, dtype=torch.bool).scatter_(1, places.unsqueeze(1), True)
    grad = grad - vectors * (vectors * grad).sum(1, keepdim=True)
    if matrix.shape[1] > matrix.shape[2]:
        return basis @ ((basis.transpose(1, 2) @ grad) / gap).masked_fill(own, 0.0)
    inside = ((basis.transpose(1, 2) @ (matrix @ grad)) / gap).masked_fill(own, 0.0)
    return (grad + matrix.transpose(1, 2) @ (basis @ inside)) / torch.maximum(chosen, bound)


class KDSVD(FlowLoss):
    """Relation of singular vectors; see `functional.kd_svd`. Source: Lee et al. 2018 (arXiv 1807.06819)."""

    formula = staticmethod(kd_svd)

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_TWO, project: str = "auto", num_vectors: int = 1) -> None:
        super().__init__(layers=layers, project=project)
        self.num_vectors = int(between("num_vectors", num_vectors, 1, 1024))
