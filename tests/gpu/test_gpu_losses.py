"""Every loss of the catalogue on a GPU: the CPU's value and gradients, finite in 16 bits, and without waiting for the device."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from losses_table import LAWS, Case, make

from potstill import losses
from potstill.losses.memory import Draw

pytestmark = pytest.mark.gpu

NAMES = losses.names()
# Choosing real tokens or turned rows out of a batch needs to know how many there are; eigenvalues are checked by PyTorch.
WAIT = {"ab", "ofd", "sskd", "kd_svd"}


def on_gpu(case: Case, dtype: torch.dtype = torch.float32) -> Case:
    """The case on the GPU, the models' values in `dtype`; what is looked up stays on the CPU."""
    loss: Any = copy.deepcopy(case.loss).to("cuda")
    if case.name == "crd":
        loss.draw = lambda rows: moved(type(loss).draw(loss, rows.cpu()), rows.device)
    return replace(
        case,
        loss=loss,
        logits=case.logits.detach().to("cuda", dtype).requires_grad_(),
        taps={name: value.detach().to("cuda", dtype).requires_grad_() for name, value in case.taps.items()},
        teacher_logits=case.teacher_logits.to("cuda", dtype),
        teacher_taps={name: value.to("cuda", dtype) for name, value in case.teacher_taps.items()},
        token_mask=None if case.token_mask is None else case.token_mask.cuda(),
        batch={name: value if name == "row_id" else value.cuda() for name, value in case.batch.items()},
    )


def moved(draw: Draw, device: torch.device) -> Draw:
    """The same draw elsewhere, since a GPU draws other numbers than the CPU."""
    return Draw(draw.rows.to(device), draw.negatives.to(device), None if draw.hits is None else draw.hits.to(device))


def learned(case: Case) -> list[torch.Tensor]:
    """Gradients of the loss's own parts after `case.gradients()`."""
    return [torch.zeros_like(each) if each.grad is None else each.grad for each in case.loss.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradients_are_those_of_the_cpu(name: str) -> None:
    here, there = make(name), on_gpu(make(name))
    torch.manual_seed(1)
    expected = float(here.value().sum.detach())
    torch.manual_seed(1)
    assert float(there.value().sum.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert float(there.value().count) == float(here.value().count)
    torch.manual_seed(2)
    ours = [*here.gradients(), *learned(here)]
    torch.manual_seed(2)
    theirs = [*there.gradients(), *learned(there)]
    for own, other in zip(ours, theirs, strict=True):
        assert other.is_cuda
        assert (own - other.cpu()).abs().max() <= 5e-4 * max(1.0, float(own.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_16_bits_are_finite_under_autocast(name: str, dtype: torch.dtype) -> None:
    case = on_gpu(make(name), dtype)
    case.loss.train()
    with torch.autocast("cuda", dtype=dtype):
        value = case.value().sum
        gradients = case.gradients()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert all(torch.isfinite(gradient).all() for gradient in (*gradients, *learned(case)))


def test_losses_do_not_wait_for_the_device() -> None:
    waited = {}
    for name in NAMES:
        case = on_gpu(make(name))
        case.gradients()  # what is looked at once, at the beginning
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            case.gradients()
        except RuntimeError as error:
            waited[name] = str(error).splitlines()[0][:80]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waited.pop("crd", None)  # the draw of this test comes from the CPU
    assert set(waited) <= WAIT, waited


def test_the_table_is_whole() -> None:
    assert set(LAWS) == set(NAMES)
    assert set(NAMES) >= WAIT
