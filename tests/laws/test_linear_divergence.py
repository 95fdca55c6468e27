"""A divergence from hidden states and heads equals the dense one in value and gradient, whatever is asked of it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from potstill.errors import NeedsError, RecipeError
from potstill.knowledge.responses.head_and_tail import HeadAndTail
from potstill.knowledge.responses.samples import Samples
from potstill.losses import functional as F
from potstill.losses import vocabulary
from potstill.losses.vocabulary import KINDS, VocabularyHead, linear_divergence

N, D, TEACHER_D, V = 37, 16, 24, 301


def dense(kind: str) -> object:
    return F.soft_ce if kind == "ce" else getattr(F, kind)


class Case:
    """Random hidden states and heads of both sides."""

    def __init__(self, dtype: torch.dtype = torch.float32, *, entries: int = V, spread: float = 0.5) -> None:
        torch.manual_seed(0)
        self.hidden = torch.randn(N, D, dtype=dtype).requires_grad_()
        self.weight = (spread * torch.randn(V, D)).to(dtype).requires_grad_()
        self.bias = torch.randn(V).to(dtype).requires_grad_()
        self.teacher = (torch.randn(N, TEACHER_D).to(dtype), (spread * torch.randn(entries, TEACHER_D)).to(dtype))
        self.mask = torch.rand(N) > 0.3

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.bias

    def logits(self, scale: float = 1.0, softcap: float | None = None) -> Tensor:
        z = scale * (self.hidden @ self.weight.T + self.bias)
        return z if softcap is None else softcap * torch.tanh(z / softcap)

    def agree(self, expected: Tensor, found: Tensor, *, within: float = 1e-5) -> None:
        torch.testing.assert_close(found, expected, rtol=within, atol=within)
        for one, other in zip(torch.autograd.grad(found, self.leaves), torch.autograd.grad(expected, self.leaves), strict=True):
            torch.testing.assert_close(one, other, rtol=within, atol=within)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, the last of which is smaller."""
    monkeypatch.setattr(vocabulary, "FEWEST_TOKENS", 5)
    monkeypatch.setitem(vocabulary.TILE, "cpu", 1)


@pytest.mark.parametrize(("kind", "temperature", "reduction"), itertools.product(KINDS, (1.0, 2.0), ("mean", "sum", "none")))
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_equals_the_dense_form(kind: str, temperature: float, reduction: str, softcap: float | None) -> None:
    case = Case()
    head = VocabularyHead(case.weight, case.bias, 1.5, softcap)
    teacher = case.teacher[0] @ case.teacher[1].T
    weights = torch.rand(N)[case.mask]
    expected = dense(kind)(case.logits(1.5, softcap)[case.mask], teacher[case.mask], temperature=temperature, reduction=reduction)
    found = linear_divergence(
        case.hidden, head, case.teacher, kind=kind, temperature=temperature, mask=case.mask, reduction=reduction
    )
    if reduction == "none":
        assert (found[~case.mask] == 0).all()
        expected, found = (expected * weights).sum(), (found[case.mask] * weights).sum()
    case.agree(expected / N, found / N)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.9, 1.0])
def test_the_ends_of_jsd_are_the_two_divergences(beta: float) -> None:
    case = Case()
    expected = F.jsd(case.logits(), case.teacher[0] @ case.teacher[1].T, beta=beta, temperature=1.0)
    case.agree(
        expected, linear_divergence(case.hidden, VocabularyHead(case.weight, case.bias), case.teacher, kind="jsd", beta=beta)
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["skew_kl", "skew_reverse_kl"])
def test_the_share_of_the_mixture(kind: str, alpha: float) -> None:
    case = Case()
    expected = dense(kind)(case.logits(), case.teacher[0] @ case.teacher[1].T, alpha=alpha, temperature=1.0)
    found = linear_divergence(case.hidden, VocabularyHead(case.weight, case.bias), case.teacher, kind=kind, alpha=alpha)
    case.agree(expected, found)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_64_bits(kind: str) -> None:
    case = Case(torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_divergence(h, VocabularyHead(w, b, 0.7, 9.0), case.teacher, kind=kind, temperature=1.3),
        (case.hidden, case.weight, case.bias),
        nondet_tol=1e-12,
        fast_mode=True,
    )


def test_token_ids_equal_cross_entropy() -> None:
    case, ids = Case(), torch.randint(0, V, (N,))
    ids[::4] = -100
    found = linear_divergence(case.hidden, VocabularyHead(case.weight, case.bias), ids, kind="ce")
    case.agree(torch.nn.functional.cross_entropy(case.logits(), ids), found)


@pytest.mark.parametrize("kind", ["kl", "ce"])
def test_samples_equal_their_dense_form(kind: str) -> None:
    case, response = Case(), Samples.of(3 * torch.randn(N, V), draws=20)
    log_p, log_q = response.aligned(case.logits(), 1.0)
    shares = torch.where(response.counts > 0, log_p.exp(), 0.0)
    expected = (shares * ((log_p if kind == "kl" else 0) - log_q)).sum(-1).mean()
    case.agree(expected, linear_divergence(case.hidden, VocabularyHead(case.weight, case.bias), response, kind=kind))


@pytest.mark.parametrize("entries", [1, 20, V])
@pytest.mark.parametrize("kind", KINDS)
def test_head_and_tail_is_a_divergence_over_its_entries(kind: str, entries: int) -> None:
    case, response = Case(), HeadAndTail.of(3 * torch.randn(N, V), entries=entries)
    log_p, log_q = response.aligned(case.logits(), 1.0)
    expected = dense(kind)(log_q, log_p, temperature=1.0)
    case.agree(expected, linear_divergence(case.hidden, VocabularyHead(case.weight, case.bias), response, kind=kind))


def test_the_gradient_of_samples_is_that_of_the_whole_on_average() -> None:
    case = Case()
    logits = case.teacher[0] @ case.teacher[1].T
    head = VocabularyHead(case.weight, case.bias)
    (whole,) = torch.autograd.grad(linear_divergence(case.hidden, head, case.teacher), case.hidden)
    drawn = [
        torch.autograd.grad(linear_divergence(case.hidden, head, Samples.of(logits, seed=seed, draws=50)), case.hidden)[0]
        for seed in range(60)
    ]
    error = (torch.stack(drawn).mean(0) - whole).norm() / whole.norm()
    assert error < 2.5 * (torch.stack(drawn).std(0).norm() / 60**0.5 / whole.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_heads_of_other_padded_sizes_are_cut_to_the_smaller(kind: str) -> None:
    case, padded = Case(), Case(entries=V + 27)
    torch.nn.init.constant_(padded.teacher[1][V:], 50.0)  # mass on entries that stand for no token
    same = (padded.teacher[0], padded.teacher[1][:V])
    head = VocabularyHead(case.weight, case.bias)
    case.agree(
        linear_divergence(case.hidden, head, same, kind=kind), linear_divergence(case.hidden, head, padded.teacher, kind=kind)
    )
    small = VocabularyHead(case.weight[:200], case.bias[:200])
    case.agree(
        linear_divergence(case.hidden, small, (same[0], same[1][:200]), kind=kind),
        linear_divergence(case.hidden, head, padded.teacher, kind=kind, vocab_size=200),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_finite_in_16_bits_at_large_logits(kind: str) -> None:
    case = Case(torch.bfloat16, spread=20.0)
    head = VocabularyHead(case.weight, case.bias)
    value = linear_divergence(case.hidden, head, case.teacher, kind=kind)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    for gradient in torch.autograd.grad(value, case.leaves):
        assert gradient.dtype == torch.bfloat16
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", KINDS)
def test_zero_at_equal_outputs_and_where_nothing_counts(kind: str) -> None:
    case = Case()
    same = (case.hidden.detach(), VocabularyHead(case.weight.detach(), case.bias.detach()))
    value = linear_divergence(case.hidden, VocabularyHead(case.weight, case.bias), same, kind=kind)
    if kind != "ce":
        assert abs(float(value.detach())) < 1e-6
    for gradient in torch.autograd.grad(value, case.leaves):
        assert gradient.abs().max() < 1e-6
    nothing = linear_divergence(case.hidden, case.weight, case.teacher, kind=kind, mask=torch.zeros(N))
    assert float(nothing.detach()) == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(nothing, (case.hidden, case.weight)))


def test_shape_of_rows_and_tokens_changes_nothing() -> None:
    case = Case()
    folded = tuple(each[:36].view(4, 9, -1) if each is case.teacher[0] else each for each in case.teacher)
    rows = case.hidden[:36].view(4, 9, D)
    found = linear_divergence(rows, case.weight, folded, mask=case.mask[:36].view(4, 9), reduction="none")
    flat = linear_divergence(
        case.hidden[:36], case.weight, (case.teacher[0][:36], case.teacher[1]), mask=case.mask[:36], reduction="none"
    )
    assert torch.equal(found.flatten(), flat)


def test_a_second_backward_pass_gives_the_same_gradients() -> None:
    case = Case()
    value = 3 * linear_divergence(case.hidden, case.weight, case.teacher)
    first = torch.autograd.grad(value, (case.hidden, case.weight), retain_graph=True)
    second = torch.autograd.grad(value, (case.hidden, case.weight))
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(first, second, strict=True))


def test_no_gradients_are_computed_while_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()
    monkeypatch.setattr(vocabulary, "_add_product", lambda *_: pytest.fail("a gradient was computed"))
    with torch.no_grad():
        assert not linear_divergence(case.hidden, case.weight, case.teacher).requires_grad


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "kl2"}, "kl, reverse_kl, jsd"),
        ({"temperature": 0.0}, "temperature"),
        ({"mask": torch.ones(3)}, r"mask is of \[3\] tokens"),
        ({"target": torch.full((N,), V), "kind": "ce"}, f"ids from 0 to {V - 1}"),
        ({"target": torch.zeros(N, dtype=torch.long)}, "kind='ce'"),
        ({"target": Samples.of(torch.randn(N, V)), "kind": "jsd"}, "not drawn"),
        ({"target": HeadAndTail.of(torch.randn(N, V), temperature=2.0)}, "temperature 2.0"),
        ({"target": (torch.randn(N + 1, TEACHER_D), torch.randn(V, TEACHER_D))}, "hidden states"),
        ({"student_head": torch.randn(V, D + 1)}, f"width {D}"),
        ({"student_head": "lm_head"}, "torch.nn.Linear"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], words: str) -> None:
    case = Case()
    given = {"student_head": case.weight, "target": case.teacher, **change}
    with pytest.raises((NeedsError, RecipeError), match=words):
        linear_divergence(case.hidden, **given)
