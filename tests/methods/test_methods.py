"""Methods: stages that the trainer can run, layer pairs, refusals."""

from __future__ import annotations

import inspect
import pkgutil
import re
from dataclasses import replace
from pathlib import Path
from types import FunctionType

import pytest
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

import potstill.methods
from potstill.answers import build as build_answers
from potstill.errors import NeedsError, RecipeError
from potstill.losses import catalogue as losses
from potstill.methods import catalogue
from potstill.methods.contract import Method, MethodOptions, ModelFacts, TermSpec, facts_of
from potstill.methods.layers import pair_layers
from potstill.methods.response import in_units
from potstill.training.terms import read_terms

TRAITS = {
    "compares_classes": {
        *("dkd", "dist", "logit_std", "nkd", "wsld", "ctkd", "mlkd", "sskd"),
        *("self", "tf_kd", "cs_kd", "label_smoothing", "mean_teacher"),
    },
    "trains_models": {"takd", "ban"},
    "follows_states": {"rco"},
    "reads_states": {"augmented_kd"},
}
SMALL, BIG = ModelFacts(3, 16, 2, "text"), ModelFacts(6, 24, 4, "text")


DOCUMENTED = (Path(__file__).parents[2] / "docs" / "methods.md").read_text("utf-8")


@pytest.mark.parametrize("name", catalogue.names())
def test_every_method_has_a_source_and_terms_that_exist(name):
    assert "Source: " in (inspect.getdoc(catalogue.find(name)) or "")
    stages = catalogue.example_phases(name)
    assert stages
    for stage in stages:
        assert {term.name for term in stage.terms} <= set(losses.names())
        assert len(read_terms(stage.losses())) == len(stage.terms)
        assert stage.epochs > 0
        assert stage.learning_rate > 0


def test_the_table_lists_every_public_function_of_the_folder():
    found = set()
    for module in pkgutil.iter_modules(potstill.methods.__path__):
        if module.name in ("catalogue", "contract", "layers", "similarity", "assistants"):
            continue
        loaded = __import__(f"potstill.methods.{module.name}", fromlist=["_"])
        for name, value in vars(loaded).items():
            if (
                isinstance(value, (FunctionType, Method))
                and value.__module__ == loaded.__name__
                and "Source:" in (value.__doc__ or "")
            ):
                found.add(f"{loaded.__name__}:{name}")
    assert found == set(catalogue.METHODS.values())


def test_traits_are_read_from_the_phases():
    found = {trait: {name for name in catalogue.names() if getattr(catalogue.traits(name), trait)} for trait in TRAITS}
    assert found == TRAITS


def test_a_method_reads_its_own_options():
    (phase,) = catalogue.build("dml", SMALL, BIG, MethodOptions(own={"peers": 4}))
    assert phase.settings["companions"]["peers"]["count"] == 4
    assert catalogue.find("ban").read_options({}).model_dump() == {"generations": 3, "ensemble": False}
    assert catalogue.find("kd").read_options({}).model_dump() == {}


@pytest.mark.parametrize(
    ("choice", "pairs"),
    [
        ("auto", [(1, 2), (2, 4), (3, 6)]),
        ("uniform", [(1, 2), (2, 4), (3, 6)]),
        ("last", [(1, 4), (2, 5), (3, 6)]),
        ("first", [(1, 1), (2, 2), (3, 3)]),
        ("skip", [(1, 2), (2, 4)]),
        ([[1, -1], [-1, 2]], [(1, 6), (3, 2)]),
    ],
)
def test_layer_pairs(choice, pairs):
    assert pair_layers(choice, SMALL, BIG) == pairs


def test_a_cut_student_learns_from_the_layers_that_it_keeps():
    cut = ModelFacts(2, 24, 4, "text", kept_layers=(1, 5))
    assert pair_layers("auto", cut, BIG) == [(1, 1), (2, 5)]
    terms = {term.name: term for term in catalogue.build("kd", cut, BIG)[0].terms}
    assert terms["hidden_mse"].options == {"layers": [(1, 1), (2, 5)]}


def test_hidden_states_are_left_out_where_they_cannot_be_compared():
    same = ModelFacts(2, 24, 4, "text")
    for options in (MethodOptions(has_taps=False), MethodOptions(has_same_tokens=False)):
        stage = catalogue.build("kd", same, BIG, options)[0]
        assert [term.name for term in stage.terms] == ["kl", "ce"]
        assert not stage.needs_teacher() - {"logits"}
    assert catalogue.build("kd", same, BIG)[0].needs_teacher() - {"logits"}


def test_some_methods_never_ask_the_teacher():
    asked = {name: any(stage.asks_teacher() for stage in catalogue.example_phases(name)) for name in catalogue.names()}
    assert all(asked[name] for name in ("kd", "augmented_kd", "tinybert", "simkd", "crd", "noisy_teacher", "sskd", "takd"))
    assert not any(asked[name] for name in ("dml", "mean_teacher", "self", "cs_kd", "label_smoothing", "rkd", "at"))


def test_wishes_come_before_defaults():
    options = MethodOptions(epochs=4.6, learning_rate=1e-3, temperature=4.0, alpha={"linear": [1.0, 0.5]})
    first, second = catalogue.build("tinybert", SMALL, BIG, options)
    assert (first.epochs, second.epochs) == pytest.approx((4.0, 0.6))
    assert first.learning_rate == second.learning_rate == 1e-3
    kl, ce = second.losses()
    assert kl == {"name": "kl", "weight": {"linear": [1.0, 0.5]}, "temperature": 4.0}
    assert ce["weight"] == {"linear": [0.0, 0.5]}


def test_facts_come_from_the_model():
    from transformers import BertConfig

    config = BertConfig(hidden_size=24, num_hidden_layers=5, num_attention_heads=3, num_labels=7)
    assert facts_of(config, kept_layers=(1, 2, 3, 4, 6)) == ModelFacts(5, 24, 3, "text", (1, 2, 3, 4, 6), num_classes=7)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: catalogue.build("tinybrt", SMALL, BIG), RecipeError, "did you mean 'tinybert'"),
        (lambda: catalogue.build("dml", SMALL, BIG, MethodOptions(own={"peer": 3})), RecipeError, "did you mean .*options.peers"),
        (lambda: catalogue.build("dml", SMALL, BIG, MethodOptions(own={"peers": 9})), RecipeError, "distill.options.peers.*8"),
        (lambda: catalogue.build("tinybert", SMALL, BIG, MethodOptions(has_taps=False)), NeedsError, "logits alone"),
        (lambda: catalogue.build("tinybert", SMALL, BIG, MethodOptions(has_same_tokens=False)), NeedsError, "different tokens"),
        (lambda: catalogue.build("minilm", replace(SMALL, heads=None), BIG), NeedsError, "needs attention"),
        (lambda: catalogue.build("tinybert", replace(SMALL, heads=None), BIG), NeedsError, "needs attention"),
        (lambda: pair_layers("middle", SMALL, BIG), RecipeError, "layers is 'middle'"),
        (lambda: pair_layers([[4, 1]], SMALL, BIG), RecipeError, "block 4 of the student, which has 3"),
        (lambda: pair_layers([[1]], SMALL, BIG), RecipeError, "pairs"),
    ],
)
def test_what_cannot_work_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_describe_and_the_documents_have_a_row_for_each():
    rows = [catalogue.describe(name) for name in catalogue.names()]
    for row in rows:
        assert f"| `{row['name']}` | {row['stages']} | {row['about']} |" in DOCUMENTED
    assert [row["name"] for row in rows] == sorted(catalogue.METHODS)
    assert all(row["about"] and row["source"] for row in rows)
    assert {row["name"]: row["about"] for row in catalogue.overview()} == {row["name"]: row["about"] for row in rows}


def test_simkd_teaches_its_head_gently_from_a_fitted_start():
    features, head = catalogue.build("simkd", SMALL, BIG, MethodOptions(learning_rate=1e-3))
    assert features.learning_rate == 1e-3
    assert head.learning_rate == pytest.approx(1e-4)
    assert head.settings == {"starts_head": True}


def test_simkd_reads_what_the_classifier_reads():
    def layers(teacher):
        return catalogue.build("simkd", NET, teacher, MethodOptions())[0].terms[0].options["layers"]

    assert layers(NET) == layers(replace(NET, head_inputs=NET.width)) == [("hidden:4", "hidden:4")]
    mobile = facts_of(MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.1, image_size=32)))
    assert mobile.head_inputs != mobile.width
    assert layers(mobile) == [("head.in", "head.in")]


@pytest.mark.parametrize("answers", [build_answers("tags"), build_answers("span")])
def test_what_compares_whole_rows_is_refused_for_words_and_places(answers):
    for name in ("cs_kd", "mlkd"):
        with pytest.raises(NeedsError, match=f"method '{name}' is of one answer for each row"):
            catalogue.build(name, SMALL, BIG, MethodOptions(answers=answers))
    for name in ("cs_kd", "mlkd", "jacobian"):
        with pytest.raises(NeedsError, match=f"loss '{name}' is of one answer for each row"):
            in_units([TermSpec(name)], answers)


def test_losses_on_a_distribution_are_refused_for_several_labels():
    for name in ("probability_mse", "cs_kd"):
        with pytest.raises(NeedsError, match=f"loss '{name}' compares probabilities of classes that exclude each other"):
            in_units([TermSpec(name)], build_answers("labels"))


def test_tinybert_sums_over_blocks_as_its_paper_does():
    terms = {term.name: term for term in catalogue.build("tinybert", SMALL, BIG)[0].terms}
    assert terms["embedding_mse"].weight == 1.0
    assert terms["hidden_mse"].weight == terms["tinybert_attention"].weight == SMALL.layers  # times a mean over that many pairs


NET = ModelFacts(4, 64, None, "image", num_classes=5, strides=(4, 8, 16, 32))
PATCHES = ModelFacts(4, 64, 4, "image", num_classes=5, strides=(16,) * 4)
TEXT = ModelFacts(4, 64, 4, "text", num_classes=5)
MISFITS = {
    "other patches": (replace(PATCHES, strides=(32,) * 4), PATCHES, MethodOptions()),
    "net from patches": (NET, PATCHES, MethodOptions()),
    "patches from net": (PATCHES, NET, MethodOptions()),
    "other grids": (replace(NET, strides=(3, 6, 12, 24)), NET, MethodOptions()),
    "answers alone": (TEXT, TEXT, MethodOptions(has_taps=False)),
    "answers of a net alone": (NET, NET, MethodOptions(has_taps=False)),
    "other tokens": (TEXT, TEXT, MethodOptions(has_same_tokens=False)),
    "answers alone, other tokens": (TEXT, TEXT, MethodOptions(has_taps=False, has_same_tokens=False)),
    "no attention": (replace(TEXT, heads=None), TEXT, MethodOptions()),
    "two classes": (replace(TEXT, num_classes=2), replace(TEXT, num_classes=2), MethodOptions()),
    "one class": (replace(NET, num_classes=1), replace(NET, num_classes=1), MethodOptions()),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("name", catalogue.names())
def test_the_method_that_a_refusal_names_would_work(name, misfit):
    student, teacher, options = MISFITS[misfit]
    refusal = refused(name, student, teacher, options)
    if refusal is None:
        return
    named = re.search(r"distill\.method: (\w+)", refusal.todo)
    assert named, refusal.todo
    assert refused(named[1], student, teacher, options) is None


def refused(name, *models_and_options):
    """Why a method does not take these models; None where it does."""
    try:
        catalogue.build(name, *models_and_options)
    except NeedsError as refusal:
        return refusal
    return None
