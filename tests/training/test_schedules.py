"""Schedules: values over training, and what a recipe may write."""

from __future__ import annotations

import pytest

from potstill.errors import RecipeError, TrainingError
from potstill.training.companions.average import WeightAverage
from potstill.training.schedules import Constant, Cosine, Linear, Phases, parse
from potstill.training.terms import Term, read_terms


@pytest.mark.parametrize(
    ("written", "schedule"),
    [
        (0.5, Constant(0.5)),
        ({"constant": 2}, Constant(2.0)),
        ({"linear": [4, 1]}, Linear(4.0, 1.0)),
        ({"cosine": [4, 1]}, Cosine(4.0, 1.0)),
        ({"phases": [[0.5, 1.0], [1.0, 0.2]]}, Phases(((0.5, 1.0), (1.0, 0.2)))),
        (Linear(0, 1), Linear(0, 1)),
    ],
)
def test_parse(written, schedule):
    assert parse(written) == schedule


@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_ends_and_middle(kind):
    schedule = kind(4.0, 1.0)
    assert (schedule(0.0), schedule(1.0)) == pytest.approx((4.0, 1.0))
    assert schedule(0.5) == pytest.approx(2.5)
    assert schedule(-1.0) == schedule(0.0)
    assert schedule(2.0) == schedule(1.0)


def test_phases_hold_until_their_end():
    schedule = parse({"phases": [[0.25, 3], [0.5, 2], [1, 1]]})
    assert [schedule(p) for p in (0.0, 0.24, 0.25, 0.5, 0.99, 1.0)] == [3, 3, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("high", "the weight of 'kl' is 'high'. Accepted: a number"),
        (True, "is True"),
        (float("nan"), "is nan"),
        ({"linaer": [1, 0]}, "schedule 'linaer', which does not exist.*write 'linear'"),
        ({"linear": [1, 0, 2]}, "Accepted: a number"),
        ({"linear": [1, 0], "cosine": [1, 0]}, "Accepted: a number"),
        ({"phases": [[0.5, 1.0], [0.4, 0.2]]}, "rise from above 0 to 1"),
        ({"phases": [[0.5, 1.0]]}, "end the last phase at 1.0"),
        ({"phases": []}, "Accepted: a number"),
    ],
)
def test_what_is_refused(written, words):
    with pytest.raises(RecipeError, match=words):
        parse(written, name="the weight of 'kl'")


def test_terms_of_every_form_get_names_of_their_own():
    terms = read_terms(
        ["kl", {"name": "kl", "weight": {"linear": [1, 0]}, "temperature": {"linear": [4, 2]}}, {"name": "ce", "as": "labels"}]
    )
    assert [term.name for term in terms] == ["kl", "kl-2", "labels"]
    assert terms[1].loss.temperature == 4.0
    assert terms[1].temperature(0.5) == 3.0
    assert terms[0].temperature is None
    assert read_terms([terms[0].loss])[0].name == "kl"
    assert read_terms(terms[0]) == (terms[0],)
    assert isinstance(terms[2], Term)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([], "no losses were given"),
        ([{"weight": 1}], "a mapping with the key name"),
        ([3], "a loss is 3"),
        (["kll"], "did you mean 'kl'"),
    ],
)
def test_terms_that_are_refused(losses, words):
    with pytest.raises(RecipeError, match=words):
        read_terms(losses)


def test_averaging_needs_a_decay_below_one():
    import torch

    with pytest.raises(TrainingError, match=r"average_decay is 1\.5"):
        WeightAverage(torch.nn.Linear(1, 1), 1.5)
