"""Methods with a chain: assistants between teacher and student, states of the teacher's way, generations of students.

They are data like all methods: which model learns in a stage (`Phase.learner`) and whom it listens to (`Phase.teacher`).
The pipeline trains the stages in their order and keeps every model of the chain.
"""

from __future__ import annotations

from dataclasses import replace

from potstill import modalities
from potstill.errors import NeedsError
from potstill.methods.assistants import plan_chain
from potstill.methods.augmented import augmented_kd
from potstill.methods.contract import MethodOptions, ModelFacts, Phase, with_wishes
from potstill.methods.response import kd

CHAINS = ("takd", "rco", "ban")
GENERATIONS, ANCHORS = 3, 4


def takd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Teacher assistants: models of intermediate size, each taught by the next larger one, the student last.

    Source: Mirzadeh et al. 2020, Improved Knowledge Distillation via Teacher Assistant (arXiv 1902.03393). Sizes fall by equal
    factors of at most 4, or in as many steps as `distill.chain.assistants` asks for; τ, α and epochs of each step are those of
    plain distillation, where the paper searched them.
    """
    school = _school(student, teacher, options)
    if student.parameters is None or teacher.parameters is None:
        names = [*(f"assistant-{number}" for number in range(1, (options.assistants or 1) + 1)), "student"]
        sizes: list[int | None] = [None] * len(names)
    elif student.parameters >= teacher.parameters:
        raise NeedsError(
            f"method 'takd' puts models between teacher and student, which have {teacher.parameters:,} and {student.parameters:,}"
            " parameters",
            "a student that is smaller than the teacher",
            "set distill.method: ban",
        )
    else:
        links = plan_chain(student.parameters, teacher.parameters, count=options.assistants)
        if len(links) == 1:
            links = plan_chain(student.parameters, teacher.parameters, count=1)
        names, sizes = [link.name for link in links], [link.parameters for link in links]
    stages, above = [], "teacher"
    for name, size in zip(names, sizes, strict=True):
        is_last = name == "student"
        stages.append(
            replace(
                school,
                name="prediction" if is_last else name,
                learner=name,
                teacher=above,
                parameters=None if is_last else size,
            )
        )
        above = name
    return tuple(stages)


def rco(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Route: the student follows states of the teacher from early in its training to the end, easy targets first.

    Source: Jin et al. 2019, Knowledge Distillation via Route Constrained Optimization (arXiv 1904.09149), with anchors at equal
    intervals (its EEI). Here the passes of plain distillation are shared among the anchors, so that it costs no more; τ and α are
    those of plain distillation.
    """
    school = _school(student, teacher, replace(options, epochs=None))
    count = ANCHORS if options.anchors is None else options.anchors
    names = [f"anchor-{number}" for number in range(1, count + 1)]
    stages = [replace(school, name=name, teacher=name) for name in names] + [school]
    whole = replace(options, epochs=school.epochs if options.epochs is None else options.epochs)
    return with_wishes(stages, whole)


def ban(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Born again: students of one shape, each taught by the one before at τ = 1 (0.5) and by the labels (0.5).

    Source: Furlanello et al. 2018, Born-Again Neural Networks (arXiv 1805.04770), whose students have the teacher's shape
    (`student.ratio: 0`); here they may be smaller. Generations start from the same weights cut out of the teacher, where the
    paper draws new ones. `distill.chain.ensemble` measures its BANE, the mean of all generations.
    """
    own = replace(
        options,
        temperature=1.0 if options.temperature is None else options.temperature,
        alpha=0.5 if options.alpha is None else options.alpha,
    )
    school = _school(student, teacher, own)
    count = GENERATIONS if options.generations is None else options.generations
    stages, above = [], "teacher"
    for number in range(1, count):
        name = f"generation-{number}"
        stages.append(replace(school, name=name, learner=name, teacher=above))
        above = name
    return (*stages, replace(school, teacher=above))


def _school(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> Phase:
    """One step of a chain: plain distillation from answers alone, with its passes and rates for this kind of model."""
    plain = replace(options, has_taps=False)
    method = augmented_kd if modalities.build(student.modality).can_augment else kd
    (stage,) = method(student, teacher, plain)
    return stage
