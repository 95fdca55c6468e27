"""Laws that hold for every loss of the catalogue."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from losses_table import LAWS, B, Case, T, has_tokens, make, shapes

from potstill import losses
from potstill.errors import NeedsError, RecipeError
from potstill.ground.tables import resolve
from potstill.losses import functional
from potstill.losses.contract import Loss, Shapes

NAMES = losses.names()
WITH_TOKENS = [name for name in NAMES if has_tokens(name)]
WITH_TAPS = [name for name in NAMES if any(need != "logits" for need in losses.build(name).needs_student())]
BY_LOGITS = [name for name in NAMES if name not in WITH_TAPS]
DOCS = Path(__file__).parents[2] / "docs" / "losses.md"


def test_table_laws_and_functions_name_the_same_losses() -> None:
    assert set(LAWS) == set(NAMES)
    assert set(NAMES) == set(functional.NAMES)


def test_functions_are_imported_when_asked_for() -> None:
    code = """
import sys
from potstill.losses import functional
assert "kl" in dir(functional) and not [name for name in sys.modules if name.startswith("potstill.losses.d")]
functional.kl
assert "potstill.losses.divergences" in sys.modules and "potstill.losses.distribution" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no loss 'kll'"):
        _ = functional.kll


@pytest.mark.parametrize("name", NAMES)
def test_a_response_loss_says_whether_it_is_of_classes(name: str) -> None:
    loss = losses.build(name)
    of_numbers = name in ("logit_mse", "bce", "regression", "bounded_regression", "output_cosine", "similarity_kl")
    assert loss.of_classes == (loss.kind == "response" and not of_numbers)
    assert loss.responses


@pytest.mark.parametrize("name", NAMES)
def test_has_source_docs_and_defaults(name: str) -> None:
    loss_class = resolve(losses.LOSSES, name, kind="loss")
    assert "Source" in (loss_class.__doc__ or "")
    assert "Source" in (getattr(functional, name).__doc__ or "")
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8")
    assert all(value is not inspect.Parameter.empty for value in losses.defaults(name).values())


@pytest.mark.parametrize("name", [name for name in NAMES if "logits" not in losses.build(name).needs_student()])
def test_logits_are_not_read_where_they_are_no_need(name: str) -> None:
    case, twin = make(name), make(name)
    case.logits = torch.full_like(case.logits, float("nan"))
    found = []
    for each in (case, twin):
        torch.manual_seed(5)
        found.append(each.value().sum.detach())
    assert torch.equal(*found)


def test_described_sources_are_whole() -> None:
    for name in NAMES:
        row = losses.catalogue.describe(name)
        assert row["source"], name
        assert not row["source"].endswith(" al"), name


def test_the_overview_says_what_the_description_says() -> None:
    rows = losses.catalogue.overview()
    assert [row["name"] for row in rows] == list(losses.names())
    for row in rows:
        described = losses.catalogue.describe(row["name"])
        assert row["about"] == described["about"] != ""
        assert row["group"] == described["kind"]


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.is_zero_at_equal])
@pytest.mark.parametrize("domain", ["tokens", "maps"])
def test_zero_with_zero_gradient_at_equal(name: str, domain: str) -> None:
    if domain == "maps" and name not in WITH_TOKENS:
        pytest.skip("reads no hidden maps")
    if domain == "maps" and not any(need.startswith("hidden") for need in losses.build(name).needs_student()):
        pytest.skip("reads no hidden maps")
    if domain == "maps" and name == "pkd":
        pytest.skip("reads one token")
    case = make(name, equal=True, domain=domain)
    assert float(case.value().sum.detach()) == pytest.approx(0.0, abs=2e-5)
    for gradient in case.gradients():
        assert gradient.abs().max() < 1e-4


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.is_flat_at_equal])
def test_zero_gradient_at_equal(name: str) -> None:
    for gradient in make(name, equal=True).gradients():
        assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if not law.is_signed])
def test_never_negative(name: str) -> None:
    for seed in range(3):
        assert float(make(name, seed=seed).value().sum.detach()) >= 0


@pytest.mark.parametrize("name", NAMES)
def test_count_is_told_by_the_batch_alone(name: str) -> None:
    case = make(name)
    assert float(case.value().count) == float(case.loss.count(case.batch))


@pytest.mark.parametrize("name", NAMES)
def test_student_learns_and_teacher_gets_no_gradient(name: str) -> None:
    case = make(name)
    theirs = [case.teacher_logits, *case.teacher_taps.values()]
    for value in theirs:
        value.requires_grad_()
    gradients = case.gradients()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    assert all(value.grad is None for value in theirs)


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.is_by_rows])
def test_split_batch_changes_nothing(name: str) -> None:
    case = make(name)
    whole = case.value()
    parts = [part(case, slice(0, 1)).value(), part(case, slice(1, B)).value()]
    assert float(whole.sum.detach()) == pytest.approx(sum(float(value.sum.detach()) for value in parts), rel=1e-5, abs=1e-6)
    assert float(whole.count) == sum(float(value.count) for value in parts)


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_padding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    case = make(name)
    before, gradients = float(case.value().sum.detach()), case.gradients()
    torch.manual_seed(0)
    padded = longer(case)
    assert float(padded.value().sum.detach()) == pytest.approx(before, rel=1e-5, abs=1e-6)
    for old, new in zip(gradients, padded.gradients()):
        cut = new[tuple(slice(0, size) for size in old.shape)]
        assert torch.allclose(cut, old, atol=1e-5)
        assert float(new.abs().sum()) == pytest.approx(float(cut.abs().sum()), rel=1e-6)


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_all_true_mask_is_no_mask(name: str) -> None:
    case = make(name, masked=False)
    torch.manual_seed(1)
    with_mask = float(case.value().sum.detach())
    torch.manual_seed(1)
    assert float(replace(case, token_mask=None).value().sum.detach()) == pytest.approx(with_mask, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_a_row_of_pads_is_finite(name: str) -> None:
    case = make(name)
    assert case.token_mask is not None
    case.token_mask[1] = 0
    assert torch.isfinite(case.value().sum)
    assert all(torch.isfinite(gradient).all() for gradient in case.gradients())


@pytest.mark.parametrize("name", BY_LOGITS)
def test_infinitely_unlikely_class_is_finite(name: str) -> None:
    if "regression" in name:
        pytest.skip("outputs are numbers")
    case = make(name)
    for logits in (case.logits, case.teacher_logits):
        logits.data[:, 1] = float("-inf")
        logits.data[1] = float("-inf")
    assert torch.isfinite(case.value().sum)
    assert all(torch.isfinite(gradient).all() for gradient in case.gradients())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_16_bits_are_finite_at_logits_times_60(name: str, dtype: torch.dtype) -> None:
    case = make(name)
    case.logits = (case.logits.detach() * 60).to(dtype).requires_grad_()
    case.teacher_logits = (case.teacher_logits * 60).to(dtype)
    case.taps = {key: value.detach().to(dtype).requires_grad_() for key, value in case.taps.items()}
    case.teacher_taps = {key: value.to(dtype) for key, value in case.teacher_taps.items()}
    assert torch.isfinite(case.value().sum)
    assert case.value().sum.dtype == torch.float32
    assert all(torch.isfinite(gradient).all() for gradient in case.gradients())


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing_but_bridges(name: str) -> None:
    case = make(name)
    torch.manual_seed(3)
    plain = float(case.value().sum.detach())
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = case.value().sum
    has_bridges = any(True for _ in case.loss.parameters())
    assert cast.dtype == torch.float32
    assert float(cast.detach()) == pytest.approx(plain, rel=0.1 if has_bridges else 1e-6, abs=0.1 if has_bridges else 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_state_and_pickle_round_trip(name: str) -> None:
    case = make(name)
    case.loss.train()
    case.value()
    case.loss.eval()
    again = make(name, seed=1)
    again.loss.load_state_dict(copy.deepcopy(case.loss.state_dict()))
    for twin in (again.loss, pickle.loads(pickle.dumps(case.loss))):
        torch.manual_seed(5)
        expected = float(case.value().sum.detach())
        torch.manual_seed(5)
        assert float(replace(case, loss=twin).value().sum.detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_everything_learned_is_registered(name: str) -> None:
    case = make(name)
    case.loss.train()
    case.value().sum.backward() if case.value().sum.requires_grad else None
    registered = {id(value) for value in (*case.loss.parameters(), *case.loss.buffers())}
    for module in case.loss.modules():
        loose = [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
        listed = [item for value in vars(module).values() if isinstance(value, (list, tuple)) for item in value]
        assert all(id(value) in registered for value in (*loose, *listed) if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("name", WITH_TAPS)
def test_missing_tap_is_refused_with_the_nearest_method(name: str) -> None:
    loss = losses.build(name)
    with pytest.raises(NeedsError) as error:
        loss.prepare(Shapes({}, (B, 5)), Shapes({}, (B, 5)), num_rows=8)
    assert name in str(error.value)
    assert "take the loss" in error.value.todo
    assert any(known in error.value.todo for known in NAMES)


TRANSFORMERS = {"head.in": (B, 8), **{f"hidden:{k}": (B, 6, 8) for k in (-1, -2, -3)}, "embedding": (B, 6, 8)}
ATTENTION = {"attention:-1": (B, 2, 6, 6), **{f"{role}:-1": (B, 2, 6, 4) for role in ("query", "key", "value")}}
GRADIENT = {"gradient:embedding": (B, 6, 8)}
MAPS = {name: (B, 8) if name == "head.in" else (B, 8, 4, 4) for name in TRANSFORMERS}
OTHER_TOKENS = {
    name: tuple(9 if size == 6 else size for size in shape) for name, shape in (TRANSFORMERS | ATTENTION | GRADIENT).items()
}
MISFITS = {
    "other tokens": (TRANSFORMERS | ATTENTION, OTHER_TOKENS),
    "maps for tokens": (MAPS, TRANSFORMERS | ATTENTION | GRADIENT),
    "no attention": (TRANSFORMERS, TRANSFORMERS),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("name", WITH_TAPS)
def test_the_loss_that_a_refusal_names_would_work(name: str, misfit: str) -> None:
    student, teacher = (Shapes(taps, (B, 5)) for taps in MISFITS[misfit])
    refusal = refused(losses.build(name, **LAWS[name].options), student, teacher)
    if refusal is None:
        return
    named = re.search(r"the loss (\w+)", refusal.todo)
    assert named, refusal.todo
    assert refused(losses.build(named[1]), student, teacher) is None


def refused(loss: Loss, student: Shapes, teacher: Shapes) -> NeedsError | None:
    """Why a loss does not take these models; None where it does."""
    try:
        loss.prepare(student, teacher, num_rows=8)
    except NeedsError as refusal:
        return refusal
    return None


@pytest.mark.parametrize("name", NAMES)
def test_unknown_option_names_the_accepted_ones(name: str) -> None:
    with pytest.raises(RecipeError, match="has no option 'zzz'"):
        losses.build(name, zzz=1)


@pytest.mark.parametrize("name", [name for name in NAMES if "temperature" in losses.defaults(name)])
def test_temperature_is_an_attribute_and_positive(name: str) -> None:
    assert isinstance(losses.build(name, temperature=3).temperature, float)
    with pytest.raises(RecipeError, match="temperature is 0"):
        losses.build(name, temperature=0)


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_other_token_count_is_refused(name: str) -> None:
    if name in ("sp", "pkd"):
        pytest.skip("whole rows are compared, or one token")
    case = make(name)
    student = shapes(longer(case).taps, case.logits)
    with pytest.raises(NeedsError):
        losses.build(name, **LAWS[name].options).prepare(student, shapes(case.teacher_taps, case.logits), num_rows=8)


def part(case: Case, rows: slice) -> Case:
    """Some rows of a case, with the same loss."""
    return replace(
        case,
        logits=case.logits.detach()[rows].requires_grad_(),
        taps={key: value.detach()[rows].requires_grad_() for key, value in case.taps.items()},
        teacher_logits=case.teacher_logits[rows],
        teacher_taps={key: value[rows] for key, value in case.teacher_taps.items()},
        token_mask=None if case.token_mask is None else case.token_mask[rows],
        batch={key: value[rows] for key, value in case.batch.items()},
    )


def longer(case: Case) -> Case:
    """The case with two more pads per row, and noise in every pad."""
    assert case.token_mask is not None
    mask = torch.cat([case.token_mask, torch.zeros(B, 2, dtype=torch.int64)], 1)

    def grown(value: torch.Tensor) -> torch.Tensor:
        out = value.detach()
        for axis in range(1, out.dim()):
            if value.shape[axis] == T:
                noise = 1e3 * torch.randn(*out.shape[:axis], 2, *out.shape[axis + 1 :])
                out = torch.cat([out, noise], axis)
        return out

    return replace(
        case,
        taps={key: grown(value).requires_grad_() for key, value in case.taps.items()},
        teacher_taps={key: grown(value) for key, value in case.teacher_taps.items()},
        token_mask=mask,
        batch={**case.batch, "attention_mask": mask},
    )
