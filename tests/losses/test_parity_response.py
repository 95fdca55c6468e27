"""Response losses equal slow versions written from their papers, one row and one class at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from potstill.losses import functional as F

B, C = 5, 4
TOLERANCE = 1e-9


@pytest.fixture
def pair() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(B, C, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.tensor([0, 1, 2, 3, 1])


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q))


def mean_rows(function, student: Tensor, teacher: Tensor, *columns: Tensor) -> float:
    rows = zip(student.tolist(), teacher.tolist(), *[column.tolist() for column in columns])
    return sum(function(*row) for row in rows) / len(student)


def check(value: Tensor, expected: float) -> None:
    assert float(value) == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_family(pair, temperature: float) -> None:
    student, teacher, _ = pair
    square = temperature**2

    def distributions(s, t):
        return softmax(t, temperature), softmax(s, temperature)

    def mix(a, b, share):
        return [share * x + (1 - share) * y for x, y in zip(a, b)]

    def forward(s, t):
        return square * kl(*distributions(s, t))

    def reverse(s, t):
        p, q = distributions(s, t)
        return square * kl(q, p)

    def skew(s, t):
        p, q = distributions(s, t)
        return square * kl(p, mix(p, q, 0.1))

    def skew_reverse(s, t):
        p, q = distributions(s, t)
        return square * kl(q, mix(q, p, 0.1))

    def jsd(s, t):
        p, q = distributions(s, t)
        m = mix(p, q, 0.3)
        return square * (0.3 * kl(p, m) + 0.7 * kl(q, m)) / 0.21

    def soft_ce(s, t):
        p, q = distributions(s, t)
        return -square * sum(a * math.log(b) for a, b in zip(p, q))

    def tvd(s, t):
        p, q = distributions(s, t)
        return temperature * 0.5 * sum(abs(a - b) for a, b in zip(p, q))

    def uld(s, t):
        p, q = distributions(s, t)
        return temperature * sum(abs(a - b) for a, b in zip(sorted(p), sorted(q)))

    option = {"temperature": temperature}
    check(F.kl(student, teacher, **option), mean_rows(forward, student, teacher))
    check(F.kl(student, teacher, direction="reverse", **option), mean_rows(reverse, student, teacher))
    check(F.reverse_kl(student, teacher, **option), mean_rows(reverse, student, teacher))
    check(F.skew_kl(student, teacher, **option), mean_rows(skew, student, teacher))
    check(F.skew_reverse_kl(student, teacher, **option), mean_rows(skew_reverse, student, teacher))
    check(F.jsd(student, teacher, beta=0.3, **option), mean_rows(jsd, student, teacher))
    check(F.soft_ce(student, teacher, **option), mean_rows(soft_ce, student, teacher))
    check(F.tvd(student, teacher, **option), mean_rows(tvd, student, teacher))
    check(F.uld(student, teacher, **option), mean_rows(uld, student, teacher))
    tensor = torch.tensor(temperature, dtype=torch.float64)
    check(F.ctkd(student, teacher, tensor), mean_rows(forward, student, teacher))


def test_jsd_reaches_both_divergences(pair) -> None:
    student, teacher, _ = pair
    assert float(F.jsd(student, teacher, beta=1e-7)) == pytest.approx(float(F.kl(student, teacher)), rel=1e-5)
    assert float(F.jsd(student, teacher, beta=1 - 1e-7)) == pytest.approx(float(F.reverse_kl(student, teacher)), rel=1e-5)


def test_ce_with_smoothing(pair) -> None:
    student, _, labels = pair
    labels = labels.clone()
    labels[2] = -100
    expected = 0.0
    for row, label in zip(student.tolist(), labels.tolist()):
        if label != -100:
            logs = [math.log(value) for value in softmax(row)]
            expected += -0.9 * logs[label] - 0.1 / C * sum(logs)
    check(F.ce(student, labels, label_smoothing=0.1), expected / 4)


def test_numbers(pair) -> None:
    student, teacher, _ = pair
    labels = torch.randn(B, C, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def squares(s, t):
        return sum((a - b) ** 2 for a, b in zip(s, t)) / C

    def bounded(s, t, y):
        own, other = (sum((a - b) ** 2 for a, b in zip(values, y)) for values in (s, t))
        return own if own + 0.1 > other else 0.0

    def binary(s, t):
        total = 0.0
        for a, b in zip(s, t):
            p, q = 1 / (1 + math.exp(-b / 2)), 1 / (1 + math.exp(-a / 2))
            total += -p * math.log(q) - (1 - p) * math.log(1 - q)
        return 4 * total / C

    check(F.logit_mse(student, teacher), mean_rows(squares, student, teacher))
    check(F.regression(student, teacher), mean_rows(squares, student, teacher))
    check(F.bounded_regression(student, teacher, labels, margin=0.1), mean_rows(bounded, student, teacher, labels))
    check(F.bce(student, teacher, temperature=2.0), mean_rows(binary, student, teacher))


def without(values: list[float], place: int) -> list[float]:
    rest = [value for index, value in enumerate(values) if index != place]
    return [value / sum(rest) for value in rest]


def test_label_aware(pair) -> None:
    student, teacher, labels = pair

    def dkd(s, t, y):
        p, q = softmax(t, 4.0), softmax(s, 4.0)
        target = kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        return 16 * (target + 8 * kl(without(p, y), without(q, y)))

    def nkd(s, t, y):
        p, q = softmax(t), softmax(s)
        others = sum(a * math.log(b) for a, b in zip(without(softmax(t, 2.0), y), without(softmax(s, 2.0), y)))
        return -p[y] * math.log(q[y]) - 1.5 * 4 * others

    def wsld(s, t, y):
        ratio = math.log(softmax(s)[y]) / math.log(softmax(t)[y])
        return (1 - math.exp(-ratio)) * 4 * kl(softmax(t, 2.0), softmax(s, 2.0))

    def tf_kd(s, t, y):
        designed = [0.99 if index == y else 0.01 / (C - 1) for index in range(C)]
        softened = [value ** (1 / 20) for value in designed]
        return 400 * kl([value / sum(softened) for value in softened], softmax(s, 20.0))

    def smoothing(s, t, y):
        p = softmax(t, 2.0)
        if p.index(max(p)) != y:
            p = [0.9 if index == y else 0.1 / (C - 1) for index in range(C)]
        return 4 * kl(p, softmax(s, 2.0))

    def shift(s, t, y):
        p = softmax(t, 2.0)
        first = p.index(max(p))
        p[first], p[y] = p[y], p[first]
        return 4 * kl(p, softmax(s, 2.0))

    check(F.dkd(student, teacher, labels), mean_rows(dkd, student, teacher, labels))
    check(F.nkd(student, teacher, labels, temperature=2.0), mean_rows(nkd, student, teacher, labels))
    check(F.wsld(student, teacher, labels), mean_rows(wsld, student, teacher, labels))
    check(F.tf_kd(student, labels), mean_rows(tf_kd, student, teacher, labels))
    check(F.label_smoothing_kd(student, teacher, labels), mean_rows(smoothing, student, teacher, labels))
    check(F.probability_shift(student, teacher, labels), mean_rows(shift, student, teacher, labels))


def test_dkd_parts_make_kl(pair) -> None:
    student, teacher, labels = pair
    p = torch.softmax(teacher, -1)
    row = torch.arange(B)
    parts = F.dkd(student, teacher, labels, alpha=1.0, beta=0.0, temperature=1.0, reduction="none")
    others = F.dkd(student, teacher, labels, alpha=0.0, beta=1.0, temperature=1.0, reduction="none")
    whole = F.kl(student, teacher, temperature=1.0, reduction="none")
    assert torch.allclose(parts + (1 - p[row, labels]) * others, whole, atol=1e-12)


def pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    cross = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b))
    return cross / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def test_whole_distribution(pair) -> None:
    student, teacher, _ = pair
    p = [softmax(row, 2.0) for row in teacher.tolist()]
    q = [softmax(row, 2.0) for row in student.tolist()]
    rows = sum(1 - pearson(a, b) for a, b in zip(p, q)) / B
    classes = sum(1 - pearson([row[c] for row in p], [row[c] for row in q]) for c in range(C)) / C
    check(F.dist(student, teacher, beta=1.5, gamma=0.5, temperature=2.0), 4 * (1.5 * rows + 0.5 * classes))

    def standard(row):
        mean = sum(row) / C
        spread = math.sqrt(sum((value - mean) ** 2 for value in row) / C)
        return [(value - mean) / spread for value in row]

    def std_kl(s, t):
        return 4 * kl(softmax(standard(t), 2.0), softmax(standard(s), 2.0))

    check(F.logit_std_kl(student, teacher), mean_rows(std_kl, student, teacher))


def test_multi_level(pair) -> None:
    student, teacher, _ = pair
    expected = 0.0
    for temperature in (2.0, 5.0):
        p = [softmax(row, temperature) for row in teacher.tolist()]
        q = [softmax(row, temperature) for row in student.tolist()]
        expected += temperature**2 * sum(kl(a, b) for a, b in zip(p, q)) / B
        for i in range(B):
            for j in range(B):
                expected += (sum(p[i][c] * p[j][c] - q[i][c] * q[j][c] for c in range(C))) ** 2 / B
        for c in range(C):
            for d in range(C):
                expected += (sum(p[i][c] * p[i][d] - q[i][c] * q[i][d] for i in range(B))) ** 2 / C
    check(F.mlkd(student, teacher, temperatures=(2.0, 5.0)), expected)


def test_uld_across_vocabularies() -> None:
    student = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.5, 3.0, 1.0, -1.0, 0.0]], dtype=torch.float64)
    q = [*sorted(softmax(student[0].tolist()), reverse=True), 0.0, 0.0]
    p = sorted(softmax(teacher[0].tolist()), reverse=True)
    check(F.uld(student, teacher), sum(abs(a - b) for a, b in zip(p, q)))


def test_token_logits_with_a_mask_are_the_rows_without_it() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(2, 3, C, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    for name in ("kl", "reverse_kl", "jsd", "skew_kl", "tvd", "soft_ce", "logit_mse", "logit_std_kl", "uld"):
        function = getattr(F, name)
        alone = function(student[0, :2], teacher[0, :2]) + function(student[1, :1], teacher[1, :1])
        together = function(student, teacher, mask=mask, reduction="sum")
        assert float(together) == pytest.approx(float(alone), rel=1e-9), name
