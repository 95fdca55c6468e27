"""Laws of what a teacher says: every kind of response against every logit."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from potstill import losses
from potstill.contracts.response import Response
from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, RecipeError
from potstill.ground.tables import resolve
from potstill.knowledge.responses import RESPONSES, read_keep
from potstill.knowledge.responses.dense import DenseLogits
from potstill.knowledge.responses.head_and_tail import HeadAndTail
from potstill.knowledge.responses.samples import Samples
from potstill.losses import functional as F
from potstill.losses.contract import StudentView
from potstill.training.preparation import check_response
from potstill.training.terms import read_terms

B, T, C = 4, 3, 9
PARTIAL = ("head_and_tail", "samples")


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kept(name: str, of: Tensor, **options: float) -> Response:
    return read_keep({"name": name, **options}).of(of, seed=3)


def kl(student: Tensor, response: Response, *, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    view = StudentView(student, unit_mask=mask)
    return losses.build("kl", temperature=temperature)(view, TeacherSignal(response), {}).sum


@pytest.mark.parametrize("name", RESPONSES)
def test_of_the_table(name: str) -> None:
    kind = resolve(RESPONSES, name, kind="response")
    assert kind.name == name
    assert read_keep(name).kind is kind
    with pytest.raises(RecipeError, match=f"the response '{name}' has no option 'zzz'"):
        read_keep({"name": name, "zzz": 1})


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("shape", [(B, C), (B, T, C)])
def test_unpacking_is_the_inverse_of_packing_and_moving_keeps_values(name: str, shape: tuple[int, ...]) -> None:
    response = kept(name, logits(*shape))
    again = type(response).unpack(response.pack() | {"other": logits(2).numpy()})
    assert response.shape == again.shape == shape
    assert response.fixed_temperature == again.fixed_temperature
    assert response.to(torch.device("cpu")) is response
    assert all((array == again.pack()[field]).all() for field, array in response.pack().items())
    student, heat = logits(*shape, seed=1), response.fixed_temperature or 2.0
    for one, other in zip(response.aligned(student, heat), again.aligned(student, heat)):
        assert torch.equal(one, other)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_every_logit_gives_the_divergence_itself(temperature: float) -> None:
    student, teacher = logits(B, C), logits(B, C, seed=1)
    expected = F.kl(student, teacher, temperature=temperature, reduction="sum")
    assert torch.equal(kl(student, DenseLogits(teacher), temperature=temperature), expected)
    log_p, log_q = DenseLogits(teacher).aligned(student, temperature)
    assert torch.equal((temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)).sum(), expected)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_head_and_tail_never_exceed_the_whole_and_reach_it(temperature: float) -> None:
    for seed in range(5):
        student, teacher = logits(B, T, C, seed=seed), logits(B, T, C, seed=seed + 50)
        mask = torch.tensor([[True, True, False]] * B)
        whole = float(F.kl(student, teacher, temperature=temperature, mask=mask, reduction="sum"))
        heads = [kept("head_and_tail", teacher, entries=count, temperature=temperature) for count in range(1, C + 2)]
        values = [float(kl(student, head, temperature=temperature, mask=mask)) for head in heads]
        assert all(0 <= value <= whole * (1 + 1e-5) for value in values)
        assert all(first <= second * (1 + 1e-5) for first, second in pairwise(values))
        assert values[-1] == values[-2] == pytest.approx(whole, rel=1e-5)


def test_head_and_tail_of_all_classes_has_the_gradient_of_the_whole() -> None:
    teacher, found = logits(B, C, seed=1), []
    for response in (DenseLogits(teacher), kept("head_and_tail", teacher, entries=C)):
        student = logits(B, C).requires_grad_()
        kl(student, response).backward()
        found.append(student.grad)
    torch.testing.assert_close(*found)


def test_gradient_of_samples_is_on_average_that_of_the_whole() -> None:
    """Within 5 standard errors over 20,000 rows of 8 draws each; the value is above the whole by H(p) − E H(p̂)."""
    num_rows, draws = 20_000, 8
    row, teacher = logits(1, C), logits(1, C, seed=1)
    student = row.expand(num_rows, C).clone().requires_grad_()
    response = Samples.of(teacher.expand(num_rows, C), seed=11, draws=draws)
    value = kl(student, response)
    value.backward()
    exact = row.softmax(-1) - teacher.softmax(-1)
    standard_error = student.grad.std(0) / math.sqrt(num_rows)
    assert ((student.grad.mean(0) - exact).abs() < 5 * standard_error + 1e-7).all()
    assert standard_error.max() < 0.01

    shares = response.counts / draws
    entropy = lambda p: torch.special.entr(p).sum(-1).mean()  # noqa: E731
    excess = float(value.detach()) / num_rows - float(F.kl(row, teacher, temperature=1.0))
    assert excess == pytest.approx(float(entropy(teacher.softmax(-1)) - entropy(shares)), abs=0.02)
    assert excess > 0


@pytest.mark.parametrize("name", PARTIAL)
def test_impossible_classes_and_pads_are_finite(name: str) -> None:
    teacher, student = logits(B, T, C), logits(B, T, C, seed=1)
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[1, 2] = False
    student.data[1, 2] = float("nan")
    for side in (teacher, student):
        side.data[0, 0, 1] = float("-inf")
    response = kept(name, teacher)
    pads = {field: array.copy() for field, array in response.pack().items()}
    for array in pads.values():
        if array.ndim:
            array[1, 2] = 0  # as a cache pads
    student.requires_grad_()
    for each in (response, type(response).unpack(pads)):
        value = kl(student, each, mask=mask)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()
        assert not student.grad[1, 2].any()


@pytest.mark.parametrize("name", PARTIAL)
def test_other_temperatures_classes_and_losses_are_refused(name: str) -> None:
    response = kept(name, logits(B, C), temperature=2.0)
    with pytest.raises(NeedsError, match=rf"'{name}' at temperature 2.0, the loss has temperature 1.0.*set .* to 2.0"):
        response.aligned(logits(B, C), 1.0)
    with pytest.raises(NeedsError, match="the student has 5 classes, the teacher's answers are of 9"):
        response.aligned(logits(B, 5), 2.0)
    with pytest.raises(NeedsError, match=rf"every logit of the teacher is needed, and the source keeps '{name}'"):
        _ = TeacherSignal(response).logits
    check_response(read_terms([{"name": "kl", "temperature": 2.0}, "ce"]), response)
    with pytest.raises(NeedsError, match=rf"loss 'jsd' reads dense answers of the teacher, the source gives '{name}'.*: kl\."):
        check_response(read_terms(["jsd"]), response)
    with pytest.raises(NeedsError, match=rf"loss 'kl' has the temperature 4.0, the answers were kept as '{name}' at 2.0"):
        check_response(read_terms([{"name": "kl", "temperature": 4.0}]), response)
    with pytest.raises(NeedsError, match="loss 'kl' has the temperature a schedule"):
        check_response(read_terms([{"name": "kl", "temperature": {"linear": [4, 1]}}]), response)
    with pytest.raises(NeedsError, match="loss 'kl' reads dense answers"):
        check_response(read_terms([{"name": "kl", "temperature": 2.0, "direction": "reverse"}]), response)


@pytest.mark.parametrize("name", losses.names())
def test_a_loss_takes_every_kind_that_it_states_and_refuses_the_others(name: str) -> None:
    loss = losses.build(name)
    if set(loss.needs_student()) | set(loss.needs_teacher()) != {"logits"} or not loss.needs_teacher() or loss.needs_batch():
        pytest.skip("reads more than the answers of both")
    for kind in (DenseLogits, HeadAndTail, Samples):
        heat = {} if kind is DenseLogits else {"temperature": getattr(loss, "temperature", 1.0)}
        view, signal = StudentView(logits(B, C)), TeacherSignal(kind.of(logits(B, C, seed=1), **heat))
        if kind in loss.responses:
            assert torch.isfinite(loss(view, signal, {}).sum)
        else:
            with pytest.raises(NeedsError, match="every logit"):
                loss(view, signal, {})
