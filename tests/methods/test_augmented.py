"""The default method of texts: its rate follows from how far the student starts from the teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest

from potstill.answers import build as build_answers
from potstill.errors import RecipeError
from potstill.methods import catalogue
from potstill.methods.contract import MethodOptions, ModelFacts

STUDENT, TEACHER = ModelFacts(3, 24, 4, "text"), ModelFacts(6, 24, 4, "text")


def _rate(start_error: float | None, **wishes: float) -> float:
    (stage,) = catalogue.build("augmented_kd", replace(STUDENT, start_error=start_error), TEACHER, MethodOptions(**wishes))
    assert stage.by_start
    return stage.learning_rate


def test_a_student_that_starts_far_away_or_was_not_measured_takes_the_whole_rate() -> None:
    assert _rate(None) == _rate(0.5) == _rate(3.0) == 5e-4


def test_the_closer_the_start_the_smaller_the_steps() -> None:
    rates = [_rate(error) for error in (0.0, 0.011, 0.02, 0.1, 0.3, 0.5)]
    assert rates == sorted(rates)
    assert len(set(rates[1:])) == 5
    assert rates[0] == 1e-5


def test_the_users_rate_is_taken_as_it_is() -> None:
    assert _rate(0.01, learning_rate=2e-4) == pytest.approx(2e-4)


def test_a_student_that_starts_close_makes_fewer_passes() -> None:
    passes = []
    for error in (0.0, 0.125, 0.5):
        (stage,) = catalogue.build("augmented_kd", replace(STUDENT, start_error=error), TEACHER, MethodOptions())
        passes.append(stage.epochs)
    assert passes == [0.5, 1.0, 2.0]
    (asked,) = catalogue.build("augmented_kd", replace(STUDENT, start_error=0.0), TEACHER, MethodOptions(epochs=3))
    assert asked.epochs == 3


def test_states_that_the_cache_holds_of_the_kept_blocks_are_matched_in_units_of_their_spread() -> None:
    student = replace(STUDENT, kept_layers=(2, 4, 6))
    held = (("mean:2", 0.5), ("mean:3", 0.1), ("mean:6", 2.0))
    (stage,) = catalogue.build("augmented_kd", student, replace(TEACHER, states=held), MethodOptions())
    kl, states = stage.terms
    assert kl.name == "kl"
    assert states.name == "hidden_mse"
    assert states.options == {"layers": [("mean:1", "mean:2"), ("mean:3", "mean:6")], "scale": [0.5, 2.0]}


def test_states_weigh_less_where_words_are_answered() -> None:
    student, teacher = replace(STUDENT, kept_layers=(2, 4, 6)), replace(TEACHER, states=(("mean:2", 0.5),))
    weights = []
    for answers in (build_answers("class"), build_answers("tags"), build_answers("span")):
        (stage,) = catalogue.build("augmented_kd", student, teacher, MethodOptions(answers=answers))
        weights.append(stage.terms[1].weight)
    assert weights == [10.0, 1.0, 1.0]


def test_without_states_or_with_another_width_the_answers_alone_are_learned() -> None:
    student = replace(STUDENT, kept_layers=(2, 4, 6))
    for teacher in (TEACHER, replace(TEACHER, states=(("mean:3", 1.0),)), replace(TEACHER, width=48, states=(("mean:2", 1.0),))):
        (stage,) = catalogue.build("augmented_kd", student, teacher, MethodOptions())
        assert [term.name for term in stage.terms] == ["kl"]


def test_dynamic_layers_do_not_touch_values_that_a_term_names() -> None:
    student, teacher = replace(STUDENT, kept_layers=(2, 4, 6)), replace(TEACHER, states=(("mean:2", 0.5),))
    with pytest.raises(RecipeError, match="no term that can choose its blocks"):
        catalogue.build("augmented_kd", student, teacher, MethodOptions(layers="dynamic"))
