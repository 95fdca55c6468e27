"""The law of targets: every one says what it runs, and whether it can be measured here."""

from __future__ import annotations

import pytest

from potstill.contracts.target import TARGETS, Target
from potstill.contracts.way import OFF
from potstill.errors import RecipeError
from potstill.exports.catalogue import format_named, way_named, ways_of
from potstill.planning.check import check_recipe
from potstill.recipe import make_recipe
from potstill.targets import target_named


def check_target(target: Target) -> None:
    """The law of targets."""
    assert target.name in TARGETS
    assert target.title
    assert all(format_named(name).name == name for name in target.formats)
    tried = [way_named(name) for name in (*target.ways, *target.further_ways)]
    assert len({way.name for way in tried}) == len(tried)
    assert {way.writes for way in tried} <= set(target.formats)
    assert way_named(target.ways[0]).precision.is_reference  # something that always serves
    assert ways_of(OFF, target)
    counts = target.thread_counts()
    assert list(counts) == sorted(set(counts))
    assert counts[0] >= 1
    assert target.is_here == (not target.absent())
    if target.is_here:
        assert target.describe()
        assert target.usable_device == target.device
    else:
        assert ";" in target.absent()  # why, and what to do
        assert target.usable_device == "cpu"


@pytest.mark.parametrize("name", TARGETS)
def test_law_of_targets(name):
    check_target(target_named(name))
    assert make_recipe({"teacher": "a", "data": "b", "target": name}).target == name


def test_a_recipe_whose_target_cannot_be_met_is_refused():
    def checked(**changes):
        check_recipe(make_recipe({"teacher": "a", "data": "b", **changes}))

    with pytest.raises(RecipeError, match=r"target' is 'nvidia_cpu'. Accepted: 'cpu' or 'nvidia_gpu'. What to do: did you mean"):
        checked(target="nvidia_cpu")
    with pytest.raises(RecipeError, match=r"mode is 'openvino' and target is 'nvidia_gpu'.*Accepted: .*fp16.*What to do: set"):
        checked(target="nvidia_gpu", quantization="openvino")
    with pytest.raises(RecipeError, match=r"latency_ms is given and target is 'nvidia_gpu'.*Accepted: .*What to do: set student"):
        checked(target="nvidia_gpu", student={"latency_ms": 1.0})
    checked(target="nvidia_gpu", quantization="fp16")
