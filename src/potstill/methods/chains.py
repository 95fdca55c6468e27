"""Methods with a chain: assistants between teacher and student, states of the teacher's training, generations of students.

They are data like all methods: which model learns in a phase (`Phase.learner`) and from which (`Phase.teacher`).
A run trains the phases in their order and keeps every model of the chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from potstill import modalities
from potstill.errors import NeedsError, RecipeError
from potstill.methods.assistants import plan_chain
from potstill.methods.augmented import augmented_kd
from potstill.methods.contract import MethodOptions, ModelFacts, OwnOptions, Phase, takes, with_wishes
from potstill.methods.response import kd

if TYPE_CHECKING:
    from potstill.recipe import Recipe

STATE = "anchor-"  # what the names of the teacher's earlier states begin with
NUM_STATES = 4


class TakdOptions(OwnOptions):
    """Options of the method takd."""

    assistants: Literal["auto"] | Annotated[int, Field(ge=1, le=8)] = Field(
        "auto", description="Models between teacher and student; auto: enough that no step shrinks more than fourfold."
    )

    def check(self, recipe: Recipe) -> None:
        """There must be room between teacher and student."""
        if recipe.student.ratio == 0:
            raise RecipeError(
                "method 'takd' puts models between teacher and student, and student.ratio is 0: they have the same size",
                "a smaller student",
                "raise student.ratio, or set distill.method: ban for students of the teacher's size",
            )


@takes(TakdOptions)
def takd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Teacher assistants: models of intermediate size, each taught by the next larger one, the student last.

    Source: Mirzadeh et al. 2020, Improved Knowledge Distillation via Teacher Assistant (arXiv 1902.03393). Sizes fall by equal
    factors of at most 4, or in as many steps as `distill.options.assistants` asks for; τ, α and epochs of each step are those of
    plain distillation, where the paper searched them.
    """
    own: TakdOptions = options.own
    count = None if own.assistants == "auto" else own.assistants
    school = _school(student, teacher, options)
    sizes: dict[str, int | None]
    if student.parameters is None or teacher.parameters is None:
        sizes = dict.fromkeys([*(f"assistant-{number}" for number in range(1, (count or 1) + 1)), "student"])
    elif student.parameters >= teacher.parameters:
        raise NeedsError(
            f"method 'takd' puts models between teacher and student, which have {teacher.parameters:,} and {student.parameters:,}"
            " parameters",
            "a student that is smaller than the teacher",
            "set distill.method: ban",
        )
    else:
        sizes = {**plan_chain(student.parameters, teacher.parameters, count=count)}
        if len(sizes) == 1:
            sizes = {**plan_chain(student.parameters, teacher.parameters, count=1)}
    phases, above = [], "teacher"
    for name, size in sizes.items():
        is_last = name == "student"
        shape = None if is_last else size
        phases.append(replace(school, name="prediction" if is_last else name, learner=name, teacher=above, parameters=shape))
        above = name
    return tuple(phases)


class RcoOptions(OwnOptions):
    """Options of the method rco."""

    route: list[str] = Field(
        default_factory=list,
        description="Folders of earlier states of the teacher, in order; none: those that `teach` keeps (teacher.anchors).",
    )

    def implied(self) -> Mapping[str, Any]:
        """States of the teacher are kept where none are named."""
        return {} if self.route else {"teacher.anchors": NUM_STATES}

    def check(self, recipe: Recipe) -> None:
        """The states that are named must be there."""
        missing = [folder for folder in self.route if not (Path(folder).expanduser() / "config.json").is_file()]
        if missing:
            raise RecipeError(
                f"distill.options.route names {', '.join(map(repr, missing))}, which hold no model",
                "folders that save_pretrained wrote, with tokenizer or image processor",
                "check the paths",
            )


@takes(RcoOptions)
def rco(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Route: the student follows states of the teacher from early in its training to the end, easy targets first.

    Source: Jin et al. 2019, Knowledge Distillation via Route Constrained Optimization (arXiv 1904.09149), with anchors at equal
    intervals (its EEI). Here the passes of plain distillation are shared among the anchors, so that it costs no more; τ and α are
    those of plain distillation.
    """
    school = _school(student, teacher, replace(options, epochs=None))
    count = NUM_STATES if options.anchors is None else options.anchors
    names = [f"{STATE}{number}" for number in range(1, count + 1)]
    phases = [replace(school, name=name, teacher=name) for name in names] + [school]
    whole = replace(options, epochs=school.epochs if options.epochs is None else options.epochs)
    return with_wishes(phases, whole)


class BanOptions(OwnOptions):
    """Options of the method ban."""

    generations: int = Field(
        3, ge=2, le=10, description="Students of the same shape, each taught by the one before; the last is delivered."
    )
    ensemble: bool = Field(False, description="Also measure the mean of all generations.")


@takes(BanOptions)
def ban(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Born again: students of one shape, each taught by the one before at τ = 1 (0.5) and by the labels (0.5).

    Source: Furlanello et al. 2018, Born-Again Neural Networks (arXiv 1805.04770), whose students have the teacher's shape
    (`student.ratio: 0`); here they may be smaller. Generations start from the same weights cut out of the teacher, where the
    paper draws new ones. `distill.options.ensemble` measures its BANE, the mean of all generations.
    """
    own: BanOptions = options.own
    wishes = replace(
        options,
        temperature=1.0 if options.temperature is None else options.temperature,
        alpha=0.5 if options.alpha is None else options.alpha,
    )
    school = _school(student, teacher, wishes)
    phases, above = [], "teacher"
    for number in range(1, own.generations):
        name = f"generation-{number}"
        phases.append(replace(school, name=name, learner=name, teacher=above))
        above = name
    return (*phases, replace(school, teacher=above))


def _school(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> Phase:
    """One step of a chain: plain distillation from answers alone, with its passes and rates for this kind of model."""
    plain = replace(options, has_taps=False)
    method = augmented_kd if modalities.build(student.modality).can_augment else kd
    (phase,) = method(student, teacher, plain)
    return phase
