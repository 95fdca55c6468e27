"""Weights and wishes: what papers say is the default, what the user says comes first."""

from __future__ import annotations

import itertools

import pytest

from potstill.errors import NeedsError, RecipeError
from potstill.methods import catalogue
from potstill.methods.assistants import plan_chain
from potstill.methods.contract import MethodOptions, ModelFacts
from potstill.training.schedules import parse
from potstill.training.terms import read_terms

SMALL = ModelFacts(3, 8, None, "image", strides=(4, 8, 16))
BIG = ModelFacts(3, 16, None, "image", strides=(4, 8, 16))


def weights(name: str, progress: float = 1.0, **wishes: object) -> dict[str, float]:
    stage = catalogue.build(name, SMALL, BIG, MethodOptions(**wishes))[-1]
    return {term.name: round(parse(term.weight)(progress), 6) for term in stage.terms}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("at", {"at": 3000.0, "ce": 1.0}),
        ("sp", {"sp": 3000.0, "ce": 1.0}),
        ("rkd", {"rkd_distance": 25.0, "rkd_angle": 50.0, "ce": 1.0}),
        ("pkt", {"pkt": 30000.0, "ce": 1.0}),
        ("nst", {"nst": 150.0, "ce": 1.0}),
        ("vid", {"vid": 3.0, "ce": 1.0}),
        ("ft", {"ft": 500.0, "ce": 1.0}),
        ("crd", {"crd": 0.8, "kl": 1.0, "ce": 1.0}),
        ("dkd", {"dkd": 1.0, "ce": 1.0}),
        ("dist", {"dist": 2.0, "ce": 1.0}),
        ("logit_std", {"logit_std_kl": 9.0, "ce": 0.1}),
        ("fitnets", {"kl": 0.111111, "ce": 1.0}),
        ("ab", {"ce": 1.0}),
        ("simkd", {"kl": 0.9, "ce": 0.1}),
    ],
)
def test_weights_are_those_of_the_papers(name, expected):
    assert weights(name) == expected


def test_factor_transfer_leaves_the_paraphraser_at_weight_one():
    term = catalogue.build("ft", SMALL, BIG, MethodOptions())[0].terms[0]
    assert term.weight * term.options["reconstruction"] == pytest.approx(1.0)


def test_patience_is_weighed_as_a_mean_over_the_width():
    teacher = ModelFacts(6, 768, 12, "text")
    found = catalogue.build("pkd", ModelFacts(3, 768, 12, "text"), teacher, MethodOptions())[0].terms[-1]
    assert (found.name, found.weight) == ("pkd", pytest.approx(100 / 768))


@pytest.mark.parametrize("name", ["at", "sp", "crd", "fitnets", "ab", "srd", "review_kd"])
def test_alpha_is_shared_between_response_and_labels(name):
    found = weights(name, alpha=0.7)
    assert (found["kl"], found["ce"]) == (0.7, 0.3)


def test_alpha_zero_leaves_contrast_and_labels_alone():
    assert weights("crd", alpha=0.0) == {"crd": 0.8, "ce": 1.0}


@pytest.mark.parametrize("name", ["dkd", "dist", "nkd", "wsld", "logit_std"])
def test_temperature_and_alpha_reach_the_term_of_the_method(name):
    terms = catalogue.build(name, SMALL, BIG, MethodOptions(temperature=3.0, alpha=0.6))[0].terms
    assert (terms[0].temperature, terms[0].weight, terms[1].weight) == (3.0, 0.6, pytest.approx(0.4))


@pytest.mark.parametrize("name", ["mlkd", "ctkd", "label_smoothing"])
def test_a_temperature_without_effect_says_so(name, caplog):
    catalogue.build(name, SMALL, BIG, MethodOptions(temperature=3.0))
    assert "temperature: 3.0 has no effect" in caplog.text


def test_warm_up_rises_over_a_twelfth():
    assert weights("dkd", 0.0)["dkd"] == 0.125
    assert weights("dkd", 1 / 24 + 1e-6)["dkd"] == 0.625
    assert weights("dkd", 0.09)["dkd"] == 1.0


@pytest.mark.parametrize("alpha", [None, 0.5, {"linear": [1.0, 0.0]}])
def test_layered_shares_features_early_and_the_task_late(alpha):
    for progress, features, task in ((0.2, 0.7, 0.3), (0.8, 0.4, 0.6)):
        found = weights("layered", progress, alpha=alpha)
        assert found["hidden_mse"] + found["cosine"] == pytest.approx(features, abs=1e-5)
        assert found["kl"] + found["ce"] == pytest.approx(task, abs=1e-5)


def test_fitnets_teaches_the_middle_block_first():
    hint, prediction = catalogue.build("fitnets", SMALL, BIG)
    assert hint.terms[0].options == {"layers": [(2, 2)]}
    assert prediction.terms[0].temperature == 3.0
    for wishes, heat in (({}, 3.0), ({"temperature": 5.0}, 5.0)):  # the paper's loss has no τ²
        assert weights("fitnets", 0.0, **wishes)["kl"] == pytest.approx(4 / heat**2, abs=1e-6)
    assert (hint.epochs, prediction.epochs) == (1.0, 8.0)


def test_without_a_teacher_only_labelled_rows_are_read():
    for name in ("self", "tf_kd", "label_smoothing"):
        (stage,) = catalogue.build(name, SMALL, BIG, MethodOptions(has_taps=False))
        assert stage.rows == "labelled"
        assert not stage.needs_teacher() - {"logits"}
        assert not any(term.loss.needs_teacher() for term in read_terms(stage.losses()))


@pytest.mark.parametrize("name", ["at", "rkd", "crd", "srd", "simkd", "review_kd", "fitnets", "layered"])
def test_logits_alone_are_refused_by_methods_on_features(name):
    with pytest.raises(NeedsError, match=r"holds logits alone.*distill.method: kd"):
        catalogue.build(name, SMALL, BIG, MethodOptions(has_taps=False))


def test_one_block_has_no_flow():
    one = ModelFacts(1, 8, 2, "text")
    with pytest.raises(NeedsError, match=r"1 pair of blocks is matched.*distill.method: at"):
        catalogue.build("fsp", one, one)


def test_a_chain_falls_by_equal_factors():
    chain = plan_chain(1_000_000, 110_000_000)
    sizes = [110_000_000, *chain.values()]
    factors = [above / below for above, below in itertools.pairwise(sizes)]
    assert len(chain) == 4
    assert max(factors) <= 4.0
    assert factors == pytest.approx([factors[0]] * 4, rel=1e-4)
    assert list(chain) == ["assistant-1", "assistant-2", "assistant-3", "student"]
    assert chain["student"] == 1_000_000


def test_a_chain_of_a_wished_length():
    assert list(plan_chain(10, 1000, count=0)) == ["student"]
    assert list(plan_chain(10, 1000, count=1).values()) == [100, 10]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plan_chain(10, 10), "a chain goes from 10 to 10 parameters"),
        (lambda: plan_chain(1, 10, count=-1), "-1 assistants"),
        (lambda: plan_chain(1, 10, largest_step=1.0), "the largest step is 1.0"),
    ],
)
def test_a_chain_that_cannot_be_is_refused(call, words):
    with pytest.raises(RecipeError, match=words):
        call()


def test_eskd_shares_its_passes_between_teacher_and_labels():
    taught, labels = catalogue.build("eskd", SMALL, BIG, MethodOptions(epochs=8, own={"until": 0.25}))
    assert (taught.epochs, labels.epochs) == (2.0, 6.0)
    assert taught.asks_teacher()
    assert [term.name for term in labels.terms] == ["ce"]
