"""The table of methods: name → where it is."""

from __future__ import annotations

from collections.abc import Sequence

from potstill.errors import NeedsError
from potstill.ground.tables import resolve
from potstill.losses.catalogue import find as find_loss
from potstill.methods.contract import Method, MethodOptions, ModelFacts, Phase
from potstill.methods.response import not_of_rows
from potstill.methods.routing import DYNAMIC, route_stages

DEFAULT = "kd"

METHODS: dict[str, str] = {
    # the output
    "kd": "potstill.methods.response:kd",
    "augmented_kd": "potstill.methods.augmented:augmented_kd",
    "dkd": "potstill.methods.output:dkd",
    "dist": "potstill.methods.output:dist",
    "logit_std": "potstill.methods.output:logit_std",
    "nkd": "potstill.methods.output:nkd",
    "wsld": "potstill.methods.output:wsld",
    "ctkd": "potstill.methods.output:ctkd",
    "mlkd": "potstill.methods.output:mlkd",
    # several models, one after the other
    "takd": "potstill.methods.chains:takd",
    "rco": "potstill.methods.chains:rco",
    "ban": "potstill.methods.chains:ban",
    # no teacher
    "self": "potstill.methods.teacher_free:self_taught",
    "tf_kd": "potstill.methods.teacher_free:tf_kd",
    "cs_kd": "potstill.methods.teacher_free:cs_kd",
    "label_smoothing": "potstill.methods.teacher_free:label_smoothing",
    # peers, averages and noise
    "dml": "potstill.methods.online:dml",
    "mean_teacher": "potstill.methods.online:mean_teacher",
    "noisy_teacher": "potstill.methods.online:noisy_teacher",
    "sskd": "potstill.methods.online:sskd",
    # blocks of encoders
    "distilbert": "potstill.methods.response:distilbert",
    "tinybert": "potstill.methods.layerwise:tinybert",
    "pkd": "potstill.methods.layerwise:pkd",
    "minilm": "potstill.methods.layerwise:minilm",
    # features
    "at": "potstill.methods.features:at",
    "vid": "potstill.methods.features:vid",
    "ft": "potstill.methods.features:ft",
    "ofd": "potstill.methods.features:ofd",
    "review_kd": "potstill.methods.features:review_kd",
    "mgd": "potstill.methods.features:mgd",
    "cwd": "potstill.methods.features:cwd",
    "srd": "potstill.methods.features:srd",
    "layered": "potstill.methods.layered:layered",
    # features first, then the output
    "fitnets": "potstill.methods.staged:fitnets",
    "ab": "potstill.methods.staged:ab",
    "fsp": "potstill.methods.staged:fsp",
    "simkd": "potstill.methods.staged:simkd",
    # relations and contrast
    "rkd": "potstill.methods.relations:rkd",
    "sp": "potstill.methods.relations:sp",
    "cc": "potstill.methods.relations:cc",
    "pkt": "potstill.methods.relations:pkt",
    "nst": "potstill.methods.relations:nst",
    "crd": "potstill.methods.relations:crd",
}

# Methods on the probabilities of classes that exclude each other.
OF_CLASSES = frozenset(
    {
        "dkd",
        "dist",
        "logit_std",
        "nkd",
        "wsld",
        "ctkd",
        "mlkd",
        "self",
        "tf_kd",
        "cs_kd",
        "mean_teacher",
        "sskd",
        "label_smoothing",
    }
)

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
    method: Method = resolve(METHODS, DEFAULT if name == "auto" else name, kind="method")
    return method


def build(name: str, student: ModelFacts, teacher: ModelFacts, options: MethodOptions | None = None) -> tuple[Phase, ...]:
    """The stages of a method for two models.

    Args:
        name: In `METHODS`, or ``auto``.
        student: Facts of the student.
        teacher: Facts of the teacher.
        options: The user's wishes.

    Raises:
        RecipeError: No such method, or layers that do not exist.
        NeedsError: The method needs what the models or the source do not have.

    Example:
        >>> tiny, base = ModelFacts(2, 128, 2, "text"), ModelFacts(12, 768, 12, "text")
        >>> [stage.name for stage in build("tinybert", tiny, base)]
        ['intermediate', 'prediction']
    """
    options = options or MethodOptions()
    require_answers(name, options)
    stages = find(name)(student, teacher, options)
    require_answers(name, options, stages)
    return route_stages(name, stages, student, teacher) if options.layers == DYNAMIC else stages


def require_answers(name: str, options: MethodOptions, stages: Sequence[Phase] = ()) -> None:
    """Refuse a method, or stages with a loss, on class probabilities or whole rows where the answers are something else.

    Raises:
        NeedsError: It is; names the methods that work.
    """
    losses = [find_loss(term.name) for stage in stages for term in stage.terms]
    if (name in OF_CLASSES or any(loss.of_classes for loss in losses)) and not options.answers.is_distribution:
        raise NeedsError(
            f"method {name!r} compares probabilities of classes that exclude each other;"
            f" the answers of this task are {options.answers.noun}",
            f"methods that take the task's own losses: {', '.join(each for each in names() if each not in OF_CLASSES)}",
            "set distill.method: auto",
        )
    if not options.answers.is_of_row and any(loss.of_rows for loss in losses):
        raise not_of_rows(f"method {name!r}", "set distill.method: auto, or kd")


def default_epochs(name: str = "auto") -> float:
    """Passes over the rows that a method makes where the user asks for none."""
    return sum(stage.epochs for stage in example_stages(name))


def example_stages(name: str, options: MethodOptions | None = None) -> tuple[Phase, ...]:
    """The stages of a method for the first kind of model that it works on.

    Raises:
        RecipeError: No such method.
        NeedsError: It works on none of `EXAMPLES`.
    """
    for student, teacher in EXAMPLES[:-1]:
        try:
            return build(name, student, teacher, options)
        except NeedsError:
            continue
    return build(name, *EXAMPLES[-1], options)


def describe() -> list[dict[str, str]]:
    """One row per method for the command line: name, stages and terms, and source."""
    rows = []
    for name in names():
        text = " ".join((find(name).__doc__ or "").split())
        about, _, source = text.partition("Source: ")
        parts = [f"{stage.name}: {' + '.join(term.name for term in stage.terms)}" for stage in example_stages(name)]
        rows.append({"name": name, "about": about.strip(), "stages": "; ".join(parts), "source": source})
    return rows
