"""The default method of texts: its rate follows from how far the student starts from the teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
