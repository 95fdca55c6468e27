"""A recipe's own losses: a list of terms, or a table by part of the network (backbone, neck, head)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.errors import RecipeError
from potstill.losses import catalogue
from potstill.methods.contract import ModelFacts, TermSpec
from potstill.methods.layers import pair_layers
from potstill.methods.routing import DYNAMIC, ROUTABLE, require_one_shape, route
from potstill.training.terms import Term, read_terms

ANY_MODEL = ModelFacts(1000, 8, 2, "text")  # deep enough for any block that a term may name
# What a type means in each part of the network.
_BLOCKS = {"mse": "hidden_mse", "cosine": "cosine", "attention": "at", "gram": "gram", "relation": "gram"}
PARTS: Mapping[str, Mapping[str, str]] = {
    "backbone": _BLOCKS,
    "neck": _BLOCKS,
    "head": {"ce": "ce", "kl": "kl", "mse": "logit_mse", "soft_ce": "soft_ce"},
}


def read_losses(given: Any, student: ModelFacts, teacher: ModelFacts, *, layers: Any = "auto") -> tuple[TermSpec, ...]:
    """Terms out of what a recipe says under `distill.losses`.

    Args:
        given: A list of names and mappings {name, weight, temperature, …}, or a table
            {backbone: {type, weight}, neck: {…}, head: {…}}, where a type alone may stand for its mapping. The backbone is
            every matched block, the neck the last one, the head the logits. A head taught by labels alone (type ce) leaves
            the teacher to the other parts.
        student: Facts of the student.
        teacher: Facts of the teacher.
        layers: Which blocks are matched, where a term does not say.

    Raises:
        RecipeError: A part, type or key that does not exist.
    """
    if isinstance(given, Mapping):
        return tuple(_part(name, value, student, teacher, layers) for name, value in given.items())
    return tuple(_term(entry, student, teacher, layers) for entry in given)


def terms_on_any_model(given: Any) -> tuple[Term, ...]:
    """The terms that a recipe says under `distill.losses`, before there are models."""
    return read_terms([term.as_loss() for term in read_losses(given, ANY_MODEL, ANY_MODEL)])


def _routed(term: TermSpec, student: ModelFacts, teacher: ModelFacts) -> TermSpec:
    """The term with blocks chosen in every step."""
    if term.name not in ROUTABLE:
        raise RecipeError(
            f"layers is dynamic for the loss {term.name!r}, which compares fixed pairs of blocks",
            f"dynamic for {', '.join(ROUTABLE)}",
            "write layers: auto next to that loss",
        )
    require_one_shape(student, teacher)
    return route(term, student, teacher)


def _part(name: str, given: Any, student: ModelFacts, teacher: ModelFacts, layers: Any) -> TermSpec:
    if name not in PARTS:
        raise RecipeError(f"distill.losses has the part {name!r}", ", ".join(PARTS), "or give a list of losses by name")
    if isinstance(given, str):
        given = {"type": given}
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"distill.losses.{name} is {given!r}",
            f"one of {', '.join(PARTS[name])}, or a mapping {{type, weight, temperature}}",
            "for several losses of one part give a list: losses: [{name: kl, weight: 0.7}, hidden_mse, …]",
        )
    value = dict(given)
    kind = value.pop("type", None)
    loss = PARTS[name].get(str(kind), str(kind))
    if kind is None or not catalogue.is_known(loss):
        raise RecipeError(
            f"distill.losses.{name} has the type {kind!r}",
            f"{', '.join(PARTS[name])}, or the name of a loss",
            "see potstill losses",
        )
    pairs = pair_layers(layers, student, teacher)
    if name == "neck":
        pairs = pairs[-1:]
    options = {"layers": pairs} if name != "head" and _takes_layers(loss) else {}
    term = TermSpec(loss, value.pop("weight", 1.0), value.pop("temperature", None), {**options, **value})
    return _routed(term, student, teacher) if layers == DYNAMIC and options else term


def _term(entry: Any, student: ModelFacts, teacher: ModelFacts, layers: Any) -> TermSpec:
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise RecipeError(
            f"distill.losses holds {entry!r}", "a name, or a mapping with the key name", "for example {name: kl, weight: 0.7}"
        )
    options = {key: value for key, value in entry.items() if key not in ("name", "weight", "temperature", "as")}
    wanted = options.get("layers", layers)
    if _takes_layers(entry["name"]):
        options["layers"] = wanted if _are_needs(wanted) else pair_layers(wanted, student, teacher)
    term = TermSpec(entry["name"], entry.get("weight", 1.0), entry.get("temperature"), options, entry.get("as"))
    return _routed(term, student, teacher) if "layers" in options and wanted == DYNAMIC else term


def _are_needs(layers: Any) -> bool:
    """Whether pairs name places (``[["hidden:-1", "module:features"]]``), not blocks; the trainer checks them."""
    if not isinstance(layers, list | tuple) or not layers:
        return False
    return all(isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(end, str) for end in pair) for pair in layers)


def _takes_layers(loss: str) -> bool:
    return "layers" in catalogue.defaults(loss)
