"""`layers: dynamic`: terms over fixed pairs of blocks become terms that choose their blocks in every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from potstill.errors import NeedsError, RecipeError
from potstill.methods.contract import ModelFacts, Phase, TermSpec

# Losses that accept a mixture of teacher blocks → the distance that they are.
ROUTABLE = {"hidden_mse": "mse", "fitnet": "mse", "cosine": "cosine"}
DYNAMIC = "dynamic"


def route_phases(name: str, phases: Sequence[Phase], student: ModelFacts, teacher: ModelFacts) -> tuple[Phase, ...]:
    """The phases of a method with its hidden-state terms routed; other terms keep their uniform pairs.

    Raises:
        NeedsError: The models' blocks have no common shape.
        RecipeError: No term of the method can be routed.
    """
    require_one_shape(student, teacher)
    routed = tuple(replace(phase, terms=tuple(route(term, student, teacher) for term in phase.terms)) for phase in phases)
    if routed == tuple(phases):
        raise RecipeError(
            f"distill.layers is dynamic, and method {name!r} has no term that can choose its blocks",
            f"a method with {', '.join(ROUTABLE)} between these two models; kd, tinybert or layered for two alike transformers",
            "set distill.layers: auto",
        )
    return routed


def route(term: TermSpec, student: ModelFacts, teacher: ModelFacts) -> TermSpec:
    """The term with the loss `routed`, over all blocks of both; itself where its loss has no mix or it names its values."""
    if term.name not in ROUTABLE or not term.pairs_blocks():
        return term
    kept: dict[str, Any] = {key: value for key, value in term.options.items() if key == "project"}
    blocks = {
        "student_layers": list(range(1, student.layers + 1)),
        "teacher_layers": list(range(1, teacher.layers + 1)),
    }
    return replace(term, name="routed", options={**blocks, "distance": ROUTABLE[term.name], **kept})


def require_one_shape(student: ModelFacts, teacher: ModelFacts) -> None:
    """All blocks of the teacher have one shape, and the student's too."""
    for side, facts in (("student", student), ("teacher", teacher)):
        if facts.has_maps:
            raise NeedsError(
                f"distill.layers is dynamic, and the stages of the {side} (a convolutional net) have grids of different sizes",
                "transformers on both sides",
                "set distill.layers: auto, which pairs stages by their grids",
            )
