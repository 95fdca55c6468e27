"""The table of methods: name → where it is."""

from __future__ import annotations

from potstill.methods.contract import Method, MethodOptions, ModelFacts, StageSpec
from potstill.table import resolve

DEFAULT = "kd"

METHODS: dict[str, str] = {
    "kd": "potstill.methods.response:kd",
    "distilbert": "potstill.methods.response:distilbert",
    "tinybert": "potstill.methods.layerwise:tinybert",
    "pkd": "potstill.methods.layerwise:pkd",
    "minilm": "potstill.methods.layerwise:minilm",
}


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


def build(name: str, student: ModelFacts, teacher: ModelFacts, options: MethodOptions | None = None) -> tuple[StageSpec, ...]:
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
    return find(name)(student, teacher, options or MethodOptions())


def default_epochs(name: str = "auto") -> float:
    """Passes over the rows that a method makes where the user asks for none."""
    example = ModelFacts(4, 64, 4, "text"), ModelFacts(12, 64, 4, "text")
    return sum(stage.epochs for stage in find(name)(*example, MethodOptions()))


def describe() -> list[dict[str, str]]:
    """One row per method for the command line: name, stages and terms, and source."""
    example = ModelFacts(4, 64, 4, "text"), ModelFacts(12, 64, 4, "text")
    rows = []
    for name in names():
        method = find(name)
        stages = build(name, *example)
        text = " ".join((method.__doc__ or "").split())
        about, _, source = text.partition("Source: ")
        parts = [f"{stage.name}: {' + '.join(term.name for term in stage.terms)}" for stage in stages]
        rows.append({"name": name, "about": about.strip(), "stages": "; ".join(parts), "source": source})
    return rows
