"""Consistency and self-supervision against slow formulations written from the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from potstill import losses
from potstill.contracts.signal import TeacherSignal
from potstill.losses import functional as F
from potstill.losses.contract import StudentView


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float], heat: float) -> list[float]:
    top = max(row)
    parts = [math.exp((value - top) / heat) for value in row]
    return [part / sum(parts) for part in parts]


def test_probability_mse() -> None:
    student, teacher = values(6, 4), values(6, 4, seed=1)
    total = 0.0
    for own, other in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(own, 1.0), softmax(other, 1.0)
        total += sum((a - b) ** 2 for a, b in zip(q, p, strict=True)) / 4
    assert float(F.probability_mse(student, teacher)) == pytest.approx(total / 6, rel=1e-6)


@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 0], [3, 3, -100, -100, 1, 3], [0, 1, 2, 3, 4, 5], [2, 2, 2, 2, 2, 2]])
def test_cs_kd(labels: list[int]) -> None:
    student, heat = values(6, 4), 4.0
    total, count = 0.0, 0
    for number, label in enumerate(labels):
        same = [i for i in range(number + 1, 6) if labels[i] == label] + [i for i in range(number) if labels[i] == label]
        if label == -100 or not same:
            continue
        p, q = softmax(student[same[0]].tolist(), heat), softmax(student[number].tolist(), heat)
        total += heat**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        count += 1
    found = float(F.cs_kd(student, torch.tensor(labels), temperature=heat))
    assert found == pytest.approx(total / max(count, 1), rel=1e-6, abs=1e-9)
    assert float(losses.build("cs_kd").count({"labels": torch.tensor(labels)})) == count


def test_cs_kd_has_no_gradient_through_its_target() -> None:
    student = values(2, 3).requires_grad_()
    F.cs_kd(student, torch.tensor([1, 1]), temperature=1.0, reduction="sum").backward()
    q = student.detach().softmax(-1)
    assert torch.allclose(student.grad, q - q.flip(0), atol=1e-8)


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b) / (a.norm() * b.norm()))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 1.0])
def test_sskd(share: float) -> None:
    plain, views, heat = 3, 4, 0.5
    student, teacher = values(plain * views, 5), values(plain * views, 7, seed=1)
    view = torch.arange(views).repeat_interleave(plain)
    rows = []
    for turned in range(plain, plain * views):
        scores = [cosine(teacher[turned], teacher[j]) for j in range(plain)]
        a = softmax(scores, heat)
        b = softmax([cosine(student[turned], student[j]) for j in range(plain)], heat)
        rank = sum(score > scores[turned % plain] for score in scores)
        rows.append((rank, heat**2 * sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))))
    wrong = sorted((row for row in rows if row[0] > 0), key=lambda row: row[0])
    kept = [row for row in rows if row[0] == 0] + wrong[: math.floor(share * len(wrong))]
    expected = sum(value for _, value in kept) / len(kept)
    assert float(F.sskd(student, teacher, view, temperature=heat, kept_share=share)) == pytest.approx(expected, rel=1e-6)


def test_sskd_teaches_the_teachers_layers_the_pretext_alone() -> None:
    torch.manual_seed(0)
    loss = losses.build("sskd")
    from potstill.losses.contract import Shapes

    loss.prepare(Shapes({"head.in": (8, 5)}, (8, 3)), Shapes({"head.in": (8, 7)}, (8, 3)), num_rows=8)
    features = values(8, 5).float().requires_grad_()
    view = torch.arange(4).repeat_interleave(2)
    batch = {"view": view, "labels": torch.zeros(8, dtype=torch.long)}
    signal = TeacherSignal(taps={"head.in": values(8, 7, seed=1).float()})
    value = loss(StudentView(torch.zeros(8, 3), {"head.in": features}), signal, batch)
    assert float(value.count) == 6 == float(loss.count(batch))
    value.sum.backward()
    assert features.grad.abs().max() > 0
    theirs = [parameter.grad.clone() for parameter in loss.bridges[1].parameters()]
    loss.zero_grad()
    other = loss(StudentView(torch.zeros(8, 3), {"head.in": torch.randn(8, 5)}), signal, batch)
    other.sum.backward()
    for before, parameter in zip(theirs, loss.bridges[1].parameters(), strict=True):
        assert torch.allclose(before, parameter.grad)
    assert float(loss(StudentView(torch.zeros(2, 3)), signal, {"labels": torch.zeros(2)}).count) == 0
