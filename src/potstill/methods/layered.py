"""A layered objective: backbone, neck and head, features first and the task later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from potstill.methods.contract import MethodOptions, ModelFacts, Phase, TermSpec
from potstill.methods.needs import matched_pairs
from potstill.methods.output import one_phase
from potstill.methods.response import response_terms
from potstill.training.schedules import is_schedule, parse

EARLY, HALF = 0.7, 0.5
LATE = 0.6
# Backbone and neck share the features' weight as 0.6 : 0.3.
BACKBONE, NECK = 2 / 3, 1 / 3


@dataclass(frozen=True)
class Product:
    """The product of two schedules, each as a recipe writes it."""

    first: Any
    second: Any

    def __call__(self, progress: float) -> float:
        """The value at this share of training."""
        return parse(self.first)(progress) * parse(self.second)(progress)


def layered(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Backbone (hidden states of matched blocks), neck (direction of the last), head (KL at τ = 2 and labels, 0.7 : 0.3).

    Features have 0.7 of the weight in the first half, the task has 0.6 in the second.
    Source: the backbone / neck / head table of recipes, with the shares that guides to phased distillation give; no paper
    stands behind them.
    """
    pairs = matched_pairs("layered", student, teacher, options)
    task = {"phases": [[HALF, round(1 - EARLY, 6)], [1.0, LATE]]}
    head = [_weighed(term, task) for term in response_terms(options, temperature=2.0, alpha=0.7)]
    terms = (
        TermSpec("hidden_mse", _features(BACKBONE), options={"layers": pairs}),
        TermSpec("cosine", _features(NECK), options={"layers": pairs[-1:]}),
        *head,
    )
    return one_phase(options, terms)


def _features(share: float) -> dict[str, Any]:
    return {"phases": [[HALF, share * EARLY], [1.0, share * (1 - LATE)]]}


def _weighed(term: TermSpec, phases: dict[str, Any]) -> TermSpec:
    weight: Any = Product(term.weight, phases)
    if not is_schedule(term.weight):
        weight = {"phases": [[until, value * float(term.weight)] for until, value in phases["phases"]]}
    return replace(term, weight=weight)
