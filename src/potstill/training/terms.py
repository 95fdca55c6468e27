"""A term of the training objective: a loss, its weight and its temperature over training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from potstill.errors import RecipeError
from potstill.ground.code import plain_name, remember
from potstill.losses.contract import Loss
from potstill.losses.own import FunctionLoss
from potstill.training.schedules import Constant, PerSample, Schedule, is_schedule, parse_temperature, parse_weight


@dataclass
class Term:
    """One summand of the objective.

    Args:
        name: Under this name it is logged (``loss/<name>``).
        weight: Factor at each share of training; 0 leaves the loss out of the step.
        temperature: Set on the loss before each step; None leaves the loss's own.
    """

    name: str
    loss: Loss
    weight: Schedule = field(default_factory=lambda: Constant(1.0))
    temperature: Schedule | None = None

    def __post_init__(self) -> None:
        """A weight or temperature that is written as a recipe does becomes a schedule."""
        if not isinstance(self.weight, Schedule):
            self.weight = parse_weight(self.weight, name=f"the weight of {self.name!r}")
        if self.temperature is not None and not isinstance(self.temperature, Schedule):
            self.temperature = parse_temperature(self.temperature, name=f"the temperature of {self.name!r}")

    @property
    def key(self) -> str:
        """The name as a module key, without dots."""
        return self.name.replace(".", "_")


def read_terms(losses: Sequence[Any] | str | Mapping[str, Any] | Callable[..., Any]) -> tuple[Term, ...]:
    """Turn what a user writes into terms with names of their own.

    Args:
        losses: Catalogue names (``"kl"``), code of one's own (``"package.module:name"``, or a function of logits), mappings
            (``{"name": "kl", "weight": 0.7, "temperature": 2.0, …}``, where `weight` and `temperature` may be schedules, `as`
            renames the term, and the rest are options of the loss), losses, or terms.

    Raises:
        RecipeError: No losses, a mapping without a name, or an entry of another type.
    """
    if isinstance(losses, (str, Mapping, Term, Loss)) or callable(losses):
        losses = [losses]
    if not losses:
        raise RecipeError("no losses were given", "at least one", 'for example losses=["kl", "ce"]')
    terms: list[Term] = []
    for entry in losses:
        term = _read(entry)
        taken = {other.name for other in terms}
        base, number = term.name, 2
        while term.name in taken:
            term = Term(f"{base}-{number}", term.loss, term.weight, term.temperature)
            number += 1
        terms.append(term)
    return tuple(terms)


def _read(entry: Any) -> Term:
    if isinstance(entry, Term):
        return entry
    if isinstance(entry, Loss):
        return Term(_name_of(entry), entry)
    if isinstance(entry, torch.nn.Module):
        return Term(plain_name(entry), FunctionLoss(entry))
    if isinstance(entry, str) or callable(entry):
        entry = {"name": entry}
    if isinstance(entry, Mapping) and callable(entry.get("name")):
        entry = {"as": plain_name(entry["name"]), **entry, "name": remember(entry["name"])}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise RecipeError(
            f"a loss is {entry!r}",
            "a name, a function, a mapping with the key name, a Term or a Loss",
            'for example {"name": "kl", "weight": 0.7}',
        )
    return _build(dict(entry))


def _build(options: dict[str, Any]) -> Term:
    from potstill.losses import catalogue

    loss_name = options.pop("name")
    label = options.pop("as", loss_name.rpartition(":")[2])
    weight = parse_weight(options.pop("weight", 1.0), name=f"the weight of {label!r}")
    temperature: Schedule | None = None
    if is_schedule(options.get("temperature")):
        temperature = parse_temperature(options["temperature"], name=f"the temperature of {label!r}")
        if isinstance(temperature, PerSample) and not catalogue.find(loss_name).takes_row_temperatures:
            takers = [name for name in catalogue.names() if catalogue.find(name).takes_row_temperatures]
            raise RecipeError(
                f"the loss {loss_name!r} has a temperature per sample, its formula has one for all rows",
                f"{{per_sample: [low, high]}} for {' and '.join(takers)}",
                "take the loss kl, or write a number or a schedule",
            )
        options["temperature"] = temperature(0.0)
    return Term(str(label), catalogue.build(loss_name, **options), weight, temperature)


def _name_of(loss: Loss) -> str:
    letters = type(loss).__name__
    return "".join(
        f"_{c.lower()}" if c.isupper() and i and not letters[i - 1].isupper() else c.lower() for i, c in enumerate(letters)
    )
