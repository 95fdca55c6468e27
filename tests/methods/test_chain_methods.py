"""Methods with a chain, as data: who learns from whom, in which sizes and passes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from potstill.errors import NeedsError
from potstill.methods import catalogue
from potstill.methods.contract import MethodOptions, ModelFacts, Phase
from potstill.training.route import evenly, step_of

SMALL = ModelFacts(4, 64, 4, "text", num_classes=3, parameters=1_000_000)
LARGE = ModelFacts(12, 256, 4, "text", num_classes=3, parameters=64_000_000)


def built(name: str, student: ModelFacts = SMALL, teacher: ModelFacts = LARGE, **wishes: object) -> tuple[Phase, ...]:
    return catalogue.build(name, student, teacher, MethodOptions(**wishes))


@pytest.mark.parametrize("name", [name for name in catalogue.names() if catalogue.traits(name).is_chain])
def test_everybody_listens_to_who_is_there_before_and_the_student_comes_last(name: str) -> None:
    stages = built(name)
    known = {"teacher", *(stage.teacher for stage in stages if stage.teacher.startswith("anchor-"))}
    for stage in stages:
        assert stage.teacher in known
        known.add(stage.learner)
    assert stages[-1].learner == "student"
    assert len({stage.name for stage in stages}) == len(stages)


def test_sizes_of_assistants_fall_by_equal_factors() -> None:
    stages = built("takd")
    sizes = [LARGE.parameters, *(stage.parameters for stage in stages[:-1]), SMALL.parameters]
    assert [round(above / below, 3) for above, below in itertools.pairwise(sizes)] == [4.0, 4.0, 4.0]
    assert [stage.learner for stage in built("takd", own={"assistants": 1})] == ["assistant-1", "student"]


def test_a_small_step_still_has_an_assistant() -> None:
    near = ModelFacts(4, 64, 4, "text", parameters=32_000_000)
    assert [stage.learner for stage in built("takd", near)] == ["assistant-1", "student"]


def test_a_student_that_is_not_smaller_has_no_room_for_assistants() -> None:
    with pytest.raises(NeedsError, match=r"64,000,000 and 64,000,000.*distill.method: ban"):
        built("takd", LARGE)


def test_a_route_costs_what_plain_distillation_costs() -> None:
    (plain,) = built("augmented_kd")
    stages = built("rco", anchors=3)
    assert [stage.teacher for stage in stages] == ["anchor-1", "anchor-2", "anchor-3", "teacher"]
    assert sum(stage.epochs for stage in stages) == pytest.approx(plain.epochs)
    assert sum(stage.epochs for stage in built("rco", epochs=8)) == pytest.approx(8)
    assert len(built("rco", anchors=0)) == 1


def test_every_model_of_a_chain_has_all_the_passes() -> None:
    assert {stage.epochs for stage in built("takd", epochs=5)} == {5}
    assert {stage.epochs for stage in built("ban", epochs=5, own={"generations": 4})} == {5}


def test_generations_hear_teacher_and_labels_alike_at_temperature_one() -> None:
    for stage in built("ban", own={"generations": 2}):
        assert [(term.name, term.weight, term.temperature) for term in stage.terms] == [("kl", 0.5, 1.0), ("ce", 0.5, None)]


def test_states_of_a_route_are_spread_evenly_without_its_end() -> None:
    files = [Path(f"step-{step:08d}.safetensors") for step in range(5, 105, 5)]
    assert [step_of(file) for file in evenly(files, 4)] == [20, 40, 60, 80]
    assert [step_of(file) for file in evenly(files[:3], 4)] == [5, 10]
    assert evenly(files[:1], 4) == []
