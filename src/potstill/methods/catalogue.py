"""The table of methods: name → where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from potstill.answers import build as build_answers
from potstill.errors import NeedsError
from potstill.ground.code import brought, find_code, is_code, refuse_clash
from potstill.ground.tables import resolve
from potstill.losses.catalogue import find as find_loss
from potstill.methods.chains import STATE
from potstill.methods.contract import Method, MethodOptions, ModelFacts, OwnOptions, Phase, Plan
from potstill.methods.response import not_of_rows
from potstill.methods.routing import DYNAMIC, route_phases

GROUP = "potstill.methods"  # entry points of packages that bring methods
DEFAULT, DEFAULT_ON_MANY_ROWS = "kd", "augmented_kd"
OF_TOKENS = ("auto", "kd", "sft")  # methods of language models, whose runs have stages of their own

GROUPS: dict[str, dict[str, str]] = {
    "the output": {
        "kd": "potstill.methods.response:kd",
        "augmented_kd": "potstill.methods.augmented:augmented_kd",
        "eskd": "potstill.methods.early_stopped:eskd",
        "dkd": "potstill.methods.output:dkd",
        "dist": "potstill.methods.output:dist",
        "logit_std": "potstill.methods.output:logit_std",
        "nkd": "potstill.methods.output:nkd",
        "wsld": "potstill.methods.output:wsld",
        "ctkd": "potstill.methods.output:ctkd",
        "mlkd": "potstill.methods.output:mlkd",
    },
    "several models, one after the other": {
        "takd": "potstill.methods.chains:takd",
        "rco": "potstill.methods.chains:rco",
        "ban": "potstill.methods.chains:ban",
    },
    "no teacher": {
        "self": "potstill.methods.teacher_free:self_taught",
        "tf_kd": "potstill.methods.teacher_free:tf_kd",
        "cs_kd": "potstill.methods.teacher_free:cs_kd",
        "label_smoothing": "potstill.methods.teacher_free:label_smoothing",
    },
    "peers, averages and noise": {
        "dml": "potstill.methods.online:dml",
        "mean_teacher": "potstill.methods.online:mean_teacher",
        "noisy_teacher": "potstill.methods.online:noisy_teacher",
        "sskd": "potstill.methods.online:sskd",
    },
    "blocks of encoders": {
        "distilbert": "potstill.methods.response:distilbert",
        "tinybert": "potstill.methods.layerwise:tinybert",
        "pkd": "potstill.methods.layerwise:pkd",
        "minilm": "potstill.methods.layerwise:minilm",
    },
    "features": {
        "at": "potstill.methods.features:at",
        "vid": "potstill.methods.features:vid",
        "ft": "potstill.methods.features:ft",
        "ofd": "potstill.methods.features:ofd",
        "review_kd": "potstill.methods.features:review_kd",
        "mgd": "potstill.methods.features:mgd",
        "cwd": "potstill.methods.features:cwd",
        "srd": "potstill.methods.features:srd",
        "layered": "potstill.methods.layered:layered",
    },
    "features first, then the output": {
        "fitnets": "potstill.methods.staged:fitnets",
        "ab": "potstill.methods.staged:ab",
        "fsp": "potstill.methods.staged:fsp",
        "simkd": "potstill.methods.staged:simkd",
    },
    "relations and contrast": {
        "rkd": "potstill.methods.relations:rkd",
        "sp": "potstill.methods.relations:sp",
        "cc": "potstill.methods.relations:cc",
        "pkt": "potstill.methods.relations:pkt",
        "nst": "potstill.methods.relations:nst",
        "crd": "potstill.methods.relations:crd",
    },
}
METHODS: dict[str, str] = {name: place for group in GROUPS.values() for name, place in group.items()}

# Pairs (student, teacher) that stand for a kind of model where a method is described without one.
EXAMPLES = (
    (
        ModelFacts(4, 64, 4, "text", kept_layers=(3, 6, 9, 12)),
        ModelFacts(12, 64, 4, "text", states=tuple((f"mean:{block}", 1.0) for block in (3, 6, 9, 12))),
    ),
    (ModelFacts(4, 64, None, "image"), ModelFacts(4, 128, None, "image")),
)


def names() -> tuple[str, ...]:
    """All methods, sorted."""
    return tuple(sorted(METHODS))


def find(name: str) -> Method:
    """The method of that name; ``auto`` is the default.

    Raises:
        RecipeError: No such method; names the nearest.
    """
    if name == "auto" or name in METHODS:
        found = resolve(METHODS, DEFAULT if name == "auto" else name, kind="method")
    elif is_code(name):
        found = find_code(name, wanted="a function (student facts, teacher facts, options) that gives phases")
    else:
        refuse_clash(GROUP, METHODS)
        if name not in brought(GROUP):
            resolve({**METHODS, **dict.fromkeys(brought(GROUP), "")}, name, kind="method")  # names the nearest
        found = brought(GROUP)[name].load()
    return found if isinstance(found, Method) else Method(found)


def is_known(name: str) -> bool:
    """Whether a method of that name is in the table, brought by an installed package, or code of the user's own."""
    return name == "auto" or name in METHODS or is_code(name) or name in brought(GROUP)


def chosen(name: str, *, makes_rows: bool) -> str:
    """The method that a name stands for: ``auto`` is the one on the answers to many rows, where more rows can be made.

    Reading the teacher's inner values in every step costs more than the step of a small student on a text, and the same time
    spent on more rows teaches more.
    """
    return DEFAULT_ON_MANY_ROWS if name == "auto" and makes_rows else name


def options_of(name: str) -> type[OwnOptions]:
    """The class of a method's own options."""
    return find(name).options


def build(name: str, student: ModelFacts, teacher: ModelFacts, options: MethodOptions | None = None) -> tuple[Phase, ...]:
    """The phases of a method for two models.

    Args:
        name: In `METHODS`, or ``auto``.
        student: Facts of the student.
        teacher: Facts of the teacher.
        options: The user's wishes.

    Raises:
        RecipeError: No such method or option, or layers that do not exist.
        NeedsError: The method needs what the models or the source do not have.

    Example:
        >>> tiny, base = ModelFacts(2, 128, 2, "text"), ModelFacts(12, 768, 12, "text")
        >>> [phase.name for phase in build("tinybert", tiny, base)]
        ['intermediate', 'prediction']
    """
    options = options or MethodOptions()
    require_answers(name, options)
    phases = find(name)(student, teacher, options)
    require_answers(name, options, phases)
    return route_phases(name, phases, student, teacher) if options.layers == DYNAMIC else phases


def require_answers(name: str, options: MethodOptions, phases: Sequence[Phase] = ()) -> None:
    """Refuse a method, or phases with a loss, on class probabilities or whole rows where the answers are something else."""
    losses = [find_loss(term.name) for phase in phases for term in phase.terms]
    is_of_classes = any(loss.of_classes for loss in losses)
    if not options.answers.is_distribution and (is_of_classes or traits(name).compares_classes):
        others = [each for each in names() if not traits(each).compares_classes]
        raise NeedsError(
            f"method {name!r} compares probabilities of classes that exclude each other;"
            f" the answers of this task are {options.answers.noun}",
            f"methods that take the task's own losses: {', '.join(others)}",
            "set distill.method: auto",
        )
    if not options.answers.is_of_row and any(loss.of_rows for loss in losses):
        raise not_of_rows(f"method {name!r}", "set distill.method: auto, or kd")


@dataclass(frozen=True)
class Traits:
    """What a run asks of a method before there are models to plan for, read from the phases for `EXAMPLES`.

    Args:
        compares_classes: It works on probabilities of classes that exclude each other alone.
        trains_models: Further models are trained before the student.
        follows_states: The student learns from earlier states of the teacher.
        reads_states: It reads mean states of the teacher's blocks where its source of knowledge holds them.
    """

    compares_classes: bool
    trains_models: bool
    follows_states: bool
    reads_states: bool

    @property
    def is_chain(self) -> bool:
        """Whether the phases have several teachers."""
        return self.trains_models or self.follows_states


@cache
def traits(name: str) -> Traits:
    """The traits of a method."""
    phases = _on_example(find(name), MethodOptions())
    needs = {need for phase in phases for need in phase.needs_teacher()}
    return Traits(
        compares_classes=_compares_classes(find(name)),
        trains_models=any(phase.learner != "student" for phase in phases),
        follows_states=any(phase.teacher.startswith(STATE) for phase in phases),
        reads_states=any(need.startswith("mean:") for need in needs),
    )


def _compares_classes(method: Method) -> bool:
    """Whether a method keeps losses on one distribution over classes, or refuses, where a row has several labels."""
    try:
        phases = _on_example(method, MethodOptions(answers=build_answers("labels")))
    except NeedsError:
        return True
    return any(find_loss(term.name).of_classes for phase in phases for term in phase.terms)


def default_epochs(name: str = "auto") -> float:
    """Passes over the rows that a method makes where the user asks for none."""
    return sum(phase.epochs for phase in example_phases(name))


def example_phases(name: str, options: MethodOptions | None = None) -> tuple[Phase, ...]:
    """The phases of a method for the first kind of model that it works on.

    Raises:
        RecipeError: No such method.
        NeedsError: It works on none of `EXAMPLES`.
    """
    return _on_example(partial(build, name), options or MethodOptions())


def _on_example(method: Plan, options: MethodOptions) -> tuple[Phase, ...]:
    for student, teacher in EXAMPLES[:-1]:
        try:
            return method(student, teacher, options)
        except NeedsError:
            continue
    return method(*EXAMPLES[-1], options)


def overview() -> list[dict[str, str]]:
    """One row per method: its group, its name, and what it does; no library of models is imported for it."""
    return [
        {"group": group, "name": name, "about": _documented(name)[0]} for group, methods in GROUPS.items() for name in methods
    ] + [{"group": "of installed packages", "name": name, "about": point.value} for name, point in brought(GROUP).items()]


def describe(name: str) -> dict[str, Any]:
    """Everything about one method: what it does, its phases with their terms and rates, its own options, and source.

    Raises:
        RecipeError: No such method; names the nearest.
    """
    name = DEFAULT if name == "auto" else name
    phases, (about, source) = example_phases(name), _documented(name)
    fields = options_of(name).model_fields
    return {
        "name": name,
        "about": about,
        "stages": "; ".join(f"{phase.name}: {' + '.join(term.name for term in phase.terms)}" for phase in phases),
        "phases": [
            {
                "name": phase.name,
                "terms": phase.losses(),
                "epochs": phase.epochs,
                "learning_rate": phase.learning_rate,
                "rows": phase.rows,
                "learner": phase.learner,
                "teacher": phase.teacher,
            }
            for phase in phases
        ],
        "needs": ", ".join(sorted({need for phase in phases for need in phase.needs_teacher()})) or "labels alone",
        "options": {
            key: {"default": value, "about": fields[key].description}
            for key, value in options_of(name)().model_dump(mode="json").items()
        },
        "source": source,
    }


def _documented(name: str) -> tuple[str, str]:
    """What a method does, and its source."""
    about, _, source = " ".join((find(name).__doc__ or "").split()).partition("Source: ")
    return about.strip(), source
