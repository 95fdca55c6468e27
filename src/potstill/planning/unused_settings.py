"""Settings of a recipe that nothing reads, as warnings."""

from __future__ import annotations

from potstill.methods import catalogue as methods
from potstill.methods.contract import MethodOptions, ModelFacts
from potstill.planning.loss_table import read_losses
from potstill.recipe import Recipe
from potstill.recipe.model import DistillRecipe, RowsRecipe

SMALL, BIG = (ModelFacts(layers, 8, 2, "text") for layers in (500, 1000))  # deep enough for any block that a term may name


def unused_settings(recipe: Recipe) -> list[str]:
    """A sentence for each setting of `distill` that has no effect next to the others.

    Example:
        >>> from potstill.recipe import make_recipe
        >>> asked = {"distill": {"method": "dkd", "layers": "last"}}
        >>> unused_settings(make_recipe(asked, {"teacher": {"model": "t"}, "data": {"source": "d"}, "output": "o"}))
        ["distill.layers has no effect: method 'dkd' compares no blocks"]
    """
    distill = recipe.distill
    found = _rows(distill.rows)
    if distill.losses is not None:
        usual = DistillRecipe(options=methods.own_options(distill.method, {}).model_dump())
        wishes = ("method", "temperature", "alpha", "options", "online")
        names = [name for name in wishes if getattr(distill, name) != getattr(usual, name)]
        if distill.layers != usual.layers:
            read = [read_losses(distill.losses, SMALL, BIG, layers=layers) for layers in ("last", "first")]
            names += ["layers"] if read[0] == read[1] else []
        return found + [f"distill.{name} has no effect: distill.losses is given, and its terms say it themselves" for name in names]
    if distill.layers != "auto" and _compares_no_blocks(distill.method):
        found.append(f"distill.layers has no effect: method {distill.method!r} compares no blocks")
    return found + [f"distill.online.{name} has no effect: method {distill.method!r} does not read it" for name in distill.online]


def _compares_no_blocks(method: str) -> bool:
    """Whether a method plans alike for any choice of blocks."""
    last, first = (methods.example_phases(method, MethodOptions(layers=layers)) for layers in ("last", "first"))
    return last == first


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
