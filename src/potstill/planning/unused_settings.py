"""Settings that a recipe makes and nothing reads: said, so that nobody believes that they did something."""

from __future__ import annotations

from potstill.methods import catalogue as methods
from potstill.methods.contract import MethodOptions, ModelFacts, OnlineOptions
from potstill.planning.loss_table import read_losses
from potstill.recipe import Recipe
from potstill.recipe.model import DistillRecipe, RowsRecipe

SMALL, BIG = (ModelFacts(layers, 8, 2, "text") for layers in (500, 1000))  # deep enough for any block that a term may name


def unheard(recipe: Recipe) -> list[str]:
    """A sentence for each setting of `distill` that has no effect beside the others.

    Args:
        recipe: One that was found to be without faults.

    Example:
        >>> from potstill.recipe import make_recipe
        >>> asked = {"distill": {"method": "dkd", "layers": "last"}}
        >>> unheard(make_recipe(asked, {"teacher": {"model": "t"}, "data": {"source": "d"}, "output": "o"}))
        ["distill.layers has no effect: method 'dkd' compares no blocks"]
    """
    distill = recipe.distill
    found = _rows(distill.rows)
    if distill.losses is not None:
        usual = DistillRecipe()
        wishes = ("method", "temperature", "alpha", "online")
        names = [name for name in wishes if getattr(distill, name) != getattr(usual, name)]
        if distill.layers != "auto":
            read = [read_losses(distill.losses, SMALL, BIG, layers=layers) for layers in ("last", "first")]
            names += ["layers"] if read[0] == read[1] else []
        return found + [f"distill.{name} has no effect beside distill.losses, whose terms say it themselves" for name in names]
    if distill.layers != "auto" and not _is_read(distill.method, MethodOptions(layers="last"), MethodOptions(layers="first")):
        found.append(f"distill.layers has no effect: method {distill.method!r} compares no blocks")
    usual_online = OnlineOptions()
    for name, value in distill.online.model_dump().items():
        if value != getattr(usual_online, name):
            wished = MethodOptions(online=OnlineOptions(**{name: value}))  # type: ignore[arg-type]
            if not _is_read(distill.method, MethodOptions(), wished):
                found.append(f"distill.online.{name} has no effect: method {distill.method!r} does not read it")
    return found


def _is_read(method: str, first: MethodOptions, second: MethodOptions) -> bool:
    """Whether a method plans otherwise with other wishes."""
    return methods.example_stages(method, first) != methods.example_stages(method, second)


def _rows(rows: RowsRecipe) -> list[str]:
    usual = RowsRecipe()
    found = []
    for names, is_read, why in (
        (("difficulty", "start", "pace"), rows.order == "curriculum", "order is random"),
        (("by", "strength"), rows.focus != "none", "focus is none"),
    ):
        changed = [name for name in names if getattr(rows, name) != getattr(usual, name)]
        found += [] if is_read else [f"distill.rows.{name} has no effect: distill.rows.{why}" for name in changed]
    return found
