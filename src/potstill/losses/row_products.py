"""What relation losses take from pairs and triples of rows, with gradients in closed form: products, distances, angles, kernels.

Shapes: B batch, D width, J rows taken at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from potstill.losses.memory import block_size

# Squared distances below it are none; so are those below this number of units of rounding of the lengths that they are made of.
TINY, ROUNDING = 1e-12, 4.0
# Angles held at a time: what a core keeps in its cache.
ANGLES = 2**17


class _Products(torch.autograd.Function):
    """X Xᵀ for rows X [B, D]; the gradient (G + Gᵀ) X takes one product, where autograd makes one for each factor."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(rows)
        return rows @ rows.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (rows,) = ctx.saved_tensors
        return (grad + grad.T) @ rows


def products(rows: Tensor) -> Tensor:
    """X Xᵀ [B, B] of rows [B, D]."""
    product: Tensor = _Products.apply(rows)  # type: ignore[no-untyped-call]
    return product


def squared_distances(rows: Tensor) -> Tensor:
    """‖x_i − x_j‖² [B, B] of rows [B, D]; zero, without a gradient, on the diagonal and where rounding may be all of it."""
    # Distances do not depend on the origin; centring keeps the subtraction of squares precise.
    product = products(rows - rows.mean(0, keepdim=True).detach())
    squares = product.diagonal()
    sums = squares.unsqueeze(1) + squares.unsqueeze(0)
    squared = sums - 2 * product
    is_none = squared <= ROUNDING * torch.finfo(rows.dtype).eps * sums
    return squared.masked_fill(is_none.fill_diagonal_(True), 0.0)


class Angles(torch.autograd.Function):
    """Mean of the Huber loss between a_jik = ½ (d²_ij + d²_jk − d²_ik) / (d_ij d_jk) of both sides, from d² [B, B] of each.

    With h the derivative of the Huber loss by a of one side, d²_ij gets Σ_k h_jik (1 / (d_ij d_jk) − a_jik / d²_ij) for the
    angles at j, and −½ Σ_m h_mij / (d_mi d_mj) for those that it lies opposite to.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        sides, count = (student, teacher), len(student)
        inverses = [torch.where(side > TINY, side, torch.inf).rsqrt() for side in sides]
        total = student.new_zeros(())
        gradients = [torch.zeros_like(side) if needed else None for side, needed in zip(sides, ctx.needs_input_grad)]
        for start in range(0, count, block := block_size(ANGLES, count**2, student)):
            vertices = slice(start, start + block)
            cosines = [_cosines(side, inverse, vertices) for side, inverse in zip(sides, inverses)]
            total += F.smooth_l1_loss(cosines[0], cosines[1], reduction="sum")
            slope = (cosines[0] - cosines[1]).clamp_(-1, 1)
            for gradient, inverse, own, sign in zip(gradients, inverses, cosines, (1, -1)):
                if gradient is not None:
                    _add_gradient(gradient, inverse, own, sign * slope, vertices)
        ctx.save_for_backward(*(None if gradient is None else gradient.div_(count**3) for gradient in gradients))
        return total / count**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return tuple(None if gradient is None else grad * gradient for gradient in ctx.saved_tensors)


def _cosines(squared: Tensor, inverse: Tensor, vertices: slice) -> Tensor:
    """[J, B, B]: the cosine of the angle at each of J vertices between all pairs of rows; zero where a side has no length."""
    own, scale = squared[vertices], inverse[vertices]
    twice = own.unsqueeze(2) + own.unsqueeze(1)
    return twice.sub_(squared).mul_((0.5 * scale).unsqueeze(2)).mul_(scale.unsqueeze(1))


def _add_gradient(gradient: Tensor, inverse: Tensor, cosines: Tensor, slope: Tensor, vertices: slice) -> None:
    """Add the gradient by squared distances of the angles at these vertices; `cosines` and `slope` are used up."""
    scale = inverse[vertices]
    along = cosines.mul_(slope).sum(2)
    slope = slope.mul_(scale.unsqueeze(2)).mul_(scale.unsqueeze(1))
    gradient[vertices] += slope.sum(2) - along * scale.square()
    gradient.sub_(slope.sum(0), alpha=0.5)


class Congruence(torch.autograd.Function):
    """1/B² ‖E‖², E = k(S Sᵀ) − k(T Tᵀ) of a polynomial k by entries, S and T the rows brought to length one.

    d/dS = 4/B² (E ∘ k′(S Sᵀ)) S, of which a row gets what is at right angles to it, divided by its length; d/dT as much of −E.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, coefficients: Sequence[float]) -> Tensor:  # type: ignore[override]
        sides = [_unit_rows(rows) for rows in (student, teacher)]
        difference, slopes = _kernels(sides[0][0], sides[1][0], coefficients, ctx.needs_input_grad[1])
        size = len(student) ** 2
        value = torch.dot(difference.view(-1), difference.view(-1)) / size
        gradients: list[Tensor | None] = [None, None]
        for side, (unit, lengths) in enumerate(sides):
            if ctx.needs_input_grad[side]:
                gradient = torch.mm(slopes[side].mul_(difference), unit)
                along = (gradient * unit).sum(1, keepdim=True)
                gradients[side] = gradient.addcmul_(along, unit, value=-1).mul_((-4 if side else 4) / size / lengths)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        student, teacher = (None if gradient is None else grad * gradient for gradient in ctx.saved_tensors)
        return student, teacher, None


def _unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, D] of length one, and the lengths [B, 1]."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_(min=1e-12)
    return rows / lengths, lengths


def _kernels(student: Tensor, teacher: Tensor, coefficients: Sequence[float], is_two_sided: bool) -> tuple[Tensor, list[Tensor]]:
    """k(A) − k(B), and by entries k′(A), if two-sided k′(B) too; A = S Sᵀ, B = T Tᵀ, k(g) = Σ_p coefficients[p] · g^p.

    The constant term is the same on both sides. Of second order, all follows from k′(A) and A − B, without further matrices:
    the difference is (A − B) ∘ (k′(A) − c₂ (A − B)), and k′(B) = k′(A) − 2 c₂ (A − B).
    """
    gram = student @ student.T
    if len(coefficients) == 3:
        _, linear, square = coefficients
        apart = torch.addmm(gram, teacher, teacher.T, alpha=-1)
        slope = gram.mul_(2 * square).add_(linear)
        slopes = [slope, torch.add(slope, apart, alpha=-2 * square)] if is_two_sided else [slope]
        return torch.add(slope, apart, alpha=-square).mul_(apart), slopes
    grams = [gram, teacher @ teacher.T]
    difference = _series(grams[0], coefficients[1:]).mul_(grams[0])
    difference -= _series(grams[1], coefficients[1:]).mul_(grams[1])
    derived = [power * coefficient for power, coefficient in enumerate(coefficients)][1:]
    return difference, [_series(gram, derived) for gram in (grams if is_two_sided else grams[:1])]


def _series(values: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Σ_p coefficients[p] · values^p by Horner's scheme, in a tensor of its own."""
    if len(coefficients) == 1:
        return torch.full_like(values, coefficients[0])
    series = values * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        series = series.add_(coefficient).mul_(values)
    return series.add_(coefficients[0])
