"""Losses in two formulations on the same inputs: as public code computes them, and as Potstill does.

The plain formulations are written anew after what public implementations compute: CRD gathers [B, K + 1, E] copies of both
memories, multiplies them in a batch, exponentiates, divides by constants, takes logarithms and renews the memories
(RepDistiller, crd/memory.py and crd/criterion.py); CC builds its kernel row by row and power by power, and stacks the rows
(torchdistill, CCKDLoss and its public configuration: 128 numbers a row, which both networks' trained projections give, so that
gradients go through both kernels; once with the student's gradient alone); NST and FSP broadcast (RepDistiller); RKD holds all
differences (RepDistiller, torchdistill); the affinity of KTAAD goes through channels one by one (torchdistill).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.losses import functional
from potstill.losses.memory import Draw, memory_contrast, shared_draw

TEMPERATURE, MOMENTUM, LOG_CONSTANT = 0.07, 0.5, math.log(50_000.0)


@dataclass(frozen=True)
class Contest:
    """One loss in both formulations, as functions of no argument that return a scalar."""

    name: str
    shapes: str
    plain: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    leaves: tuple[Tensor, ...]


def crd_of_each(device: str) -> Contest:
    """Both directions, 16,384 negatives drawn for each row."""
    return _crd("crd", device, is_shared=False)


def crd_shared(device: str) -> Contest:
    """Both directions, 16,384 negatives drawn once; the plain side gets the same ones for every row."""
    return _crd("crd, shared negatives", device, is_shared=True)


def _crd(name: str, device: str, *, is_shared: bool) -> Contest:
    num_rows, num_negatives, width, batch = 50_000, 16_384, 128, 64
    banks = [F.normalize(torch.randn(num_rows, width, device=device), dim=-1) for _ in range(2)]
    plain_banks = [bank.clone() for bank in banks]
    leaf = F.normalize(torch.randn(batch, width, device=device), dim=-1).requires_grad_()
    other = F.normalize(torch.randn(batch, width, device=device), dim=-1).requires_grad_()
    rows = torch.arange(batch, device=device)
    shape = (num_negatives,) if is_shared else (batch, num_negatives)
    negatives = torch.randint(batch, num_rows, shape, device=device)
    draw = shared_draw(rows, negatives, num_rows) if is_shared else Draw(rows, negatives, None)
    index = torch.cat([rows.unsqueeze(1), negatives.expand(batch, -1)], 1)

    def one_way(embedding: Tensor, bank: Tensor) -> Tensor:
        gathered = bank.index_select(0, index.view(-1)).view(batch, num_negatives + 1, width)
        scores = torch.exp(torch.bmm(gathered, embedding.unsqueeze(2)).squeeze(2) / TEMPERATURE) / math.exp(LOG_CONSTANT)
        noise, small = num_negatives / num_rows, 1e-7
        own, others = scores[:, 0], scores[:, 1:]
        hit = torch.log(own / (own + noise + small))
        missed = torch.log(torch.full_like(others, noise) / (others + noise + small))
        return -(hit.sum() + missed.sum())

    def renew(bank: Tensor, embedding: Tensor) -> None:
        blended = bank.index_select(0, rows) * MOMENTUM + embedding.detach() * (1 - MOMENTUM)
        bank.index_copy_(0, rows, blended / blended.norm(dim=1, keepdim=True))

    def plain() -> Tensor:
        value = one_way(leaf, plain_banks[0]) + one_way(other, plain_banks[1])
        renew(plain_banks[0], other)
        renew(plain_banks[1], leaf)
        return value

    def ours() -> Tensor:
        constant = leaf.new_tensor(LOG_CONSTANT)
        value = memory_contrast(leaf, banks[0], draw, temperature=TEMPERATURE, log_constant=constant)
        value = value + memory_contrast(other, banks[1], draw, temperature=TEMPERATURE, log_constant=constant)
        renew(banks[0], other)
        renew(banks[1], leaf)
        return value

    return Contest(name, f"N {num_rows}, K {num_negatives}, E {width}, B {batch}", plain, ours, (leaf, other))


def nst(device: str) -> Contest:
    leaf = torch.rand(16, 128, 8, 8, device=device).requires_grad_()
    teacher = torch.rand(16, 128, 8, 8, device=device)

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        return (first.unsqueeze(2) * second.unsqueeze(1)).sum(-1).pow(2).mean()

    def plain() -> Tensor:
        s, t = (F.normalize(value.flatten(2), dim=2) for value in (leaf, teacher))
        return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)

    return Contest("nst", "B 16, C 128, 8 × 8", plain, lambda: functional.nst(leaf, teacher), (leaf,))


def fsp(device: str) -> Contest:
    leaf = torch.rand(16, 64, 32, 32, device=device).requires_grad_()
    second, first_teacher, second_teacher = (torch.rand(16, c, 32, 32, device=device) for c in (128, 64, 128))

    def flow(first: Tensor, other: Tensor) -> Tensor:
        return (first.flatten(2).unsqueeze(2) * other.flatten(2).unsqueeze(1)).mean(-1)

    def plain() -> Tensor:
        return (flow(leaf, second) - flow(first_teacher, second_teacher)).pow(2).mean()

    def ours() -> Tensor:
        return functional.fsp(leaf, second, first_teacher, second_teacher)

    return Contest("fsp", "B 16, C 64 and 128, 32 × 32", plain, ours, (leaf,))


def rkd_angle(device: str) -> Contest:
    leaf = torch.randn(48, 4096, device=device).requires_grad_()
    teacher = torch.randn(48, 4096, device=device)

    def angles(rows: Tensor) -> Tensor:
        unit = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), p=2, dim=2)
        return torch.bmm(unit, unit.transpose(1, 2)).view(-1)

    def plain() -> Tensor:
        return F.smooth_l1_loss(angles(leaf), angles(teacher))

    return Contest("rkd_angle", "B 48, D 4096", plain, lambda: functional.rkd_angle(leaf, teacher), (leaf,))


def affinity(device: str) -> Contest:
    leaf = torch.rand(4, 32, 24, 24, device=device).requires_grad_()
    teacher = torch.rand(4, 32, 24, 24, device=device)

    def plain() -> Tensor:
        total = leaf.new_zeros(())
        for channel in range(32):
            s, t = (F.normalize(value[:, channel].flatten(1), dim=1) for value in (leaf, teacher))
            outer = torch.bmm(s.unsqueeze(2), s.unsqueeze(1)) - torch.bmm(t.unsqueeze(2), t.unsqueeze(1))
            total = total + torch.norm(outer, dim=(1, 2)).mean() / (24 * 24)
        return total / 32

    def ours() -> Tensor:
        return functional.affinity(leaf, teacher, over="channels")

    return Contest("affinity (channels)", "B 4, C 32, 24 × 24", plain, ours, (leaf,))


def cc(device: str) -> Contest:
    """Both projections learn, as in the public configuration."""
    return _cc("cc, both learn", device, both_learn=True)


def cc_of_student(device: str) -> Contest:
    """The teacher's side has no gradient."""
    return _cc("cc", device, both_learn=False)


def _cc(name: str, device: str, *, both_learn: bool) -> Contest:
    leaf = torch.randn(256, 128, device=device).requires_grad_()
    teacher = torch.randn(256, 128, device=device, requires_grad=both_learn)

    def kernel(rows: Tensor) -> Tensor:
        unit, built = F.normalize(rows, dim=1), []
        for own in unit:
            similarity = torch.matmul(own, torch.t(unit))
            row: Tensor | int = 1
            for power in (1, 2):
                row += 0.8**power / math.factorial(power) * similarity**power
            row *= math.exp(-0.8)
            built.append(row)
        return torch.stack(built)

    def plain() -> Tensor:
        return (kernel(leaf) - kernel(teacher)).pow(2).mean()

    return Contest(name, "B 256, D 128", plain, lambda: functional.cc(leaf, teacher), (leaf, teacher))


CONTESTS = (crd_of_each, crd_shared, nst, fsp, rkd_angle, affinity, cc, cc_of_student)
