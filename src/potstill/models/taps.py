"""Taps: intermediate values of a model, read by need name with hooks that live for one forward.

Shapes: B batch, T tokens, D width, H heads. Need names are listed in docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import NeedsError, PotstillError
from potstill.ground.counted import counted
from potstill.ground.tables import nearest
from potstill.models.cka import row_mean
from potstill.models.families import family_or_none
from potstill.models.families.base import Family
from potstill.models.families.encoder import Encoder
from potstill.models.inputs import logits_of
from potstill.models.tap_gradients import exchanged, largest_logit_by, leaf_of

INDEXED = ("hidden", "mean", "attention", "query", "key", "value")
_PROJECTIONS = ("query", "key", "value")
_MASK = "attention_mask"
INPUT = "input"
Forward = Callable[..., Any]


class Taps:
    """Reads the needed values of one model, and nothing else of it.

    Hooks sit on the needed modules only, and only while `run` is in the model's forward: two Taps never meet, a pickled
    model carries no hook, and the recomputation of gradient checkpointing, which runs in the backward pass, adds nothing.
    Attention scores are recomputed from the query and key projections, so the model keeps its fast attention.
    ``gradient:NEED`` is the gradient of the largest logit by a value; it is computed wherever gradients are off elsewhere.
    Where the logits are not needed, `reach` leaves the forward behind the last value that is needed.

    Args:
        model: A transformers model, or any module whose forward returns logits.
        needs: Need names; ``logits`` is always there.

    Raises:
        NeedsError: The model has no such value; the message names what it has and the nearest.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
        >>> logits, values = Taps(model, ["module:0"]).run({"input": torch.ones(1, 2)})
        >>> values["module:0"].shape
        torch.Size([1, 3])
    """

    def __init__(self, model: nn.Module, needs: Collection[str]) -> None:
        self.model = model
        self.needs = tuple(dict.fromkeys(need for need in needs if need != "logits"))
        self._family: Family | None = family_or_none(model)
        self._slots: dict[str, tuple[nn.Module, bool]] = {}
        self._recipes: dict[str, Callable[[Mapping[str, Tensor], Any], Tensor]] = {}
        self._places: dict[str, str] = {}  # need → the slot that holds the value itself
        self._gradients: dict[str, str] = {}  # need → the slot by which the output is differentiated
        self._wants_hidden_states = False
        self._calls: dict[str, int] = {}  # how often a whole forward came by each slot
        for need in self.needs:
            self._resolve(need)

    def run(self, inputs: Mapping[str, Any], forward: Forward | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward of the model.

        Args:
            inputs: Keyword arguments of the model.
            forward: Called instead of the model, where the caller wraps its forward.

        Returns:
            The logits, and the values by need name. Nothing is kept here.
        """
        options = {"output_hidden_states": True} if self._wants_hidden_states else {}
        caught: dict[str, Tensor] = {}
        self._calls = dict.fromkeys(self._slots, 0)
        has_graph = torch.is_grad_enabled()
        with torch.enable_grad() if self._gradients else contextlib.nullcontext():
            inputs = self._with_leaf(inputs, caught)
            with self._hooks(caught):
                outputs = (forward or self.model)(**inputs, **options)
            logits = logits_of(outputs)
            leaves = {need: _found(caught, slot) for need, slot in self._gradients.items()}
            gradients = largest_logit_by(logits, leaves, keeps_graph=has_graph) if leaves else {}
        if has_graph:
            self._check_gradient(caught)
        values = self._values(caught, inputs, outputs) | gradients
        if leaves and not has_graph:
            return logits.detach(), {name: value.detach() for name, value in values.items()}
        return logits, values

    @property
    def can_stop(self) -> bool:
        """Whether a forward may be left behind the last value: a whole one has shown that it comes by each of them once."""
        is_whole = self._wants_hidden_states or self._gradients or INPUT in self._places.values()
        recomputes = self.model.training and getattr(self.model, "is_activation_checkpointing", False)
        return bool(self._slots) and not is_whole and not recomputes and all(self._calls.get(slot) == 1 for slot in self._slots)

    def reach(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The values by need name, without the part of the forward behind the last of them where that can be left out.

        Args:
            inputs: Keyword arguments of the model.
        """
        if not self.can_stop:
            return self.run(inputs)[1]
        caught: dict[str, Tensor] = {}
        with contextlib.suppress(_AllThere), self._hooks(caught, stops=True):
            self.model(**inputs)
        return self._values(caught, inputs, None)

    @contextlib.contextmanager
    def _hooks(self, caught: dict[str, Tensor], *, stops: bool = False) -> Iterator[None]:
        with contextlib.ExitStack() as hooks:
            for slot, place in self._slots.items():
                hooks.enter_context(self._hook(slot, *place, caught, stops=stops))
            yield

    def _values(self, caught: dict[str, Tensor], inputs: Mapping[str, Any], outputs: Any) -> dict[str, Tensor]:
        if isinstance(inputs.get(_MASK), Tensor):
            caught[_MASK] = inputs[_MASK]
        return {name: recipe(caught, outputs) for name, recipe in self._recipes.items()}

    def _with_leaf(self, inputs: Mapping[str, Any], caught: dict[str, Tensor]) -> Mapping[str, Any]:
        """The inputs, the numbers among them as a leaf where their gradient is wanted."""
        if INPUT not in self._places.values():
            return inputs
        name = next((name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()), None)
        if name is None:
            raise self._missing(INPUT)
        caught[INPUT] = leaf_of(inputs[name]) if torch.is_grad_enabled() else inputs[name]
        return {**inputs, name: caught[INPUT]}

    def _hook(self, slot: str, module: nn.Module, is_input: bool, caught: dict[str, Tensor], *, stops: bool = False) -> Any:
        is_leaf = slot in self._gradients.values()

        def take(container: Any) -> Tensor:
            value = _first_tensor(container)
            caught[slot] = leaf_of(value) if is_leaf else value
            self._calls[slot] += not stops
            if stops and caught.keys() >= self._slots.keys():
                raise _AllThere
            return value

        if is_input:

            def before(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
                value = take(positional or tuple(named.values()))
                return (exchanged(positional, value, caught[slot]), exchanged(named, value, caught[slot])) if is_leaf else None

            return module.register_forward_pre_hook(before, with_kwargs=True)

        def after(_: nn.Module, __: Any, output: Any) -> Any:
            value = take(output)
            return exchanged(output, value, caught[slot]) if is_leaf else None

        return module.register_forward_hook(after)

    def _check_gradient(self, caught: Mapping[str, Tensor]) -> None:
        if not caught or not self.model.training or not getattr(self.model, "is_activation_checkpointing", False):
            return
        if any(value.is_floating_point() and not value.requires_grad for value in caught.values()):
            raise NeedsError(
                "gradient checkpointing with use_reentrant=True hides intermediate values from the losses",
                "gradient checkpointing with use_reentrant=False",
                'set gradient_checkpointing_kwargs={"use_reentrant": False}',
            )

    def _resolve(self, need: str) -> None:
        name, _, rest = need.partition(":")
        if need == "embedding" or (name == "hidden" and rest):
            self._resolve_hidden(need, 0 if need == "embedding" else self._index(need))
        elif name == "mean" and rest:
            self._resolve_hidden(need, self._index(need))
            read = self._recipes[need]
            self._recipes[need] = lambda caught, outputs: row_mean(read(caught, outputs), caught.get(_MASK))
        elif name in ("attention", *_PROJECTIONS) and rest:
            self._resolve_attention(need, name, self._index(need))
        elif need in ("head.in", "pooled"):
            head = head_of(self.model)
            if head is None:
                raise self._missing(need)
            self._slot(need, head, need, is_input=True)
        elif name == "module" and rest:
            self._resolve_modules(need, rest)
        elif need == INPUT and getattr(self.model, "main_input_name", "pixel_values") == "pixel_values":
            self._places[need] = INPUT
            self._recipes[need] = lambda caught, _: _found(caught, INPUT)
        elif name == "gradient" and rest:
            self._resolve_gradient(need, rest)
        else:
            raise self._missing(need)

    def _resolve_gradient(self, need: str, by: str) -> None:
        is_asked = by in self._recipes
        self._resolve(by)
        if not is_asked:
            self._recipes.pop(by, None)
        if by not in self._places:
            raise NeedsError(
                f"{need!r} cannot be computed, {type(self.model).__name__} has no one module that gives {by!r}",
                "input of images, embedding, hidden:k, head.in or module:PATH",
                "set tap to one of them",
            )
        self._gradients[need] = self._places[by]

    def _resolve_hidden(self, need: str, index: int) -> None:
        stages = stages_of(self.model)
        if stages and need == "embedding":
            raise self._missing(need)
        if stages:
            position = self._position(need, index, len(stages), lowest=1)
            self._slot(f"hidden:{position}", stages[position - 1], need)
            return
        if self._family is None:
            count = _block_count(self.model)
            if count is None:
                raise self._missing(need)
            position = self._position(need, index, count, lowest=0)
            self._wants_hidden_states = True
            self._recipes[need] = lambda _, outputs: outputs.hidden_states[position]
            return
        if index == 0:
            self._slot("hidden:0", self._family.embedding(self.model), need)
            return
        blocks = self._family.blocks(self.model)
        position = self._position(need, index, len(blocks), lowest=0)
        self._slot(f"hidden:{position}", blocks[position - 1], need)

    def _resolve_attention(self, need: str, value: str, index: int) -> None:
        family = self._family
        if not isinstance(family, Encoder):
            raise self._missing(need)
        position = self._position(need, index, len(family.blocks(self.model)), lowest=1)
        tapped = family.tapped(self.model, position, value)
        slots = {name: f"{name}:{position}" for name in tapped}
        self._slots |= {slots[name]: place for name, place in tapped.items()}

        def read(caught: Mapping[str, Tensor], _: Any) -> Tensor:
            return family.read(self.model, position, value, {name: _found(caught, slot) for name, slot in slots.items()})

        self._recipes[need] = read

    def _resolve_modules(self, need: str, pattern: str) -> None:
        modules = dict(self.model.named_modules())
        found = [name for name in modules if name and fnmatch.fnmatchcase(name, pattern)]
        if not found:
            guess = nearest(pattern, modules)
            raise NeedsError(
                f"{need!r} names no module of {type(self.model).__name__}",
                "a path of named_modules(), wildcards allowed",
                f"did you mean 'module:{guess}'?" if guess else "print the names with dict(model.named_modules())",
            )
        for name in found:
            self._slot(f"module:{name}", modules[name], f"module:{name}")

    def _slot(self, slot: str, module: nn.Module, need: str, *, is_input: bool = False) -> None:
        self._slots[slot] = (module, is_input)
        self._places[need] = slot
        self._recipes[need] = lambda caught, _: _found(caught, slot)

    def _index(self, need: str) -> int:
        try:
            return int(need.partition(":")[2])
        except ValueError:
            raise NeedsError(
                f"{need!r} has no number of a block", f"{need.partition(':')[0]}:1, :2 … or :-1 for the last", "write the number"
            ) from None

    def _position(self, need: str, index: int, count: int, *, lowest: int) -> int:
        position = count + 1 + index if index < 0 else index
        if lowest <= position <= count:
            return position
        kind = need.partition(":")[0]
        raise NeedsError(
            f"{need!r} does not exist, {type(self.model).__name__} has {counted(count, 'block')}",
            f"{kind}:{lowest} to {kind}:{count}, or {kind}:-1 for the last",
            f"use '{kind}:{min(max(position, lowest), count)}'",
        )

    def _missing(self, need: str) -> NeedsError:
        names = available(self.model)
        kind = need.partition(":")[0]
        alike = [name for name in names if name.startswith(f"{kind}:")]
        guess = alike[-1] if alike else nearest(need, names)
        return NeedsError(
            f"{type(self.model).__name__} does not give {need!r}", ", ".join(names), f"did you mean {guess!r}?" if guess else ""
        )


class _AllThere(Exception):
    """Leaves a forward that has nothing more to give."""


class TapReader:
    """Reads needs of any model by one call; sources of knowledge and the report take it as a plain argument."""

    def __init__(self) -> None:
        self._taps: dict[tuple[int, tuple[str, ...]], Taps] = {}

    def read(self, model: nn.Module, inputs: Mapping[str, Any], needs: Collection[str]) -> dict[str, Tensor]:
        """Values of one forward by need name, with ``logits`` among them where they are needed.

        Raises:
            NeedsError: The model does not have a value that is needed.
        """
        key = (id(model), tuple(needs))
        if key not in self._taps:
            self._taps[key] = Taps(model, needs)
        if "logits" not in needs:
            return self._taps[key].reach(inputs)
        logits, values = self._taps[key].run(inputs)
        return {"logits": logits, **values}


def head_of(model: nn.Module) -> nn.Module | None:
    """The final linear layer: the family's head, else the last `nn.Linear` of the model."""
    family = family_or_none(model)
    if family is not None:
        try:
            return family.head(model)
        except PotstillError:
            return None
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linears[-1] if linears else None


def stages_of(model: nn.Module) -> list[nn.Module]:
    """The modules that a model names in its attribute ``tap_stages`` (paths): their outputs are ``hidden:1``, ``hidden:2`` …

    Raises:
        NeedsError: A path that leads to no module.
    """
    modules = dict(model.named_modules())
    paths = tuple(getattr(model, "tap_stages", ()))
    for path in paths:
        if path not in modules:
            guess = nearest(path, modules)
            raise NeedsError(
                f"tap_stages of {type(model).__name__} names {path!r}, which is no module of it",
                "paths of named_modules()",
                f"did you mean {guess!r}?" if guess else "print the names with dict(model.named_modules())",
            )
    return [modules[path] for path in paths]


def available(model: nn.Module) -> list[str]:
    """Need names that this model gives, for messages and for choosing layers."""
    family = family_or_none(model)
    names = ["logits", "module:PATH"]
    if head_of(model) is not None:
        names += ["head.in", "pooled"]
    stages = stages_of(model)
    if stages:
        return [*names, *(f"{kind}:{k}" for kind in INDEXED[:2] for k in range(1, len(stages) + 1))]
    count = len(family.blocks(model)) if family is not None else _block_count(model)
    if count is None:
        return names
    names += ["embedding", *(f"{kind}:{k}" for kind in INDEXED[:2] for k in range(1, count + 1))]
    if isinstance(family, Encoder):
        names += [f"{kind}:{k}" for kind in INDEXED[2:] for k in range(1, count + 1)]
    return names


def can_give(model: nn.Module, need: str) -> bool:
    """Whether this model has the needed value."""
    try:
        Taps(model, [need])
    except NeedsError:
        return False
    return True


def _found(caught: Mapping[str, Tensor], slot: str) -> Tensor:
    if slot not in caught:
        raise NeedsError(f"{slot!r} was not reached by the model's forward", todo="tap a module that every forward runs")
    return caught[slot]


def _first_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    for name in ("last_hidden_state", "pooler_output", "logits"):
        if isinstance(getattr(value, name, None), Tensor):
            return getattr(value, name)
    parts = value.values() if isinstance(value, Mapping) else value
    for part in parts if isinstance(parts, Collection) else ():
        if isinstance(part, Tensor):
            return part
    raise NeedsError(f"a tapped module gave {type(value).__name__} without a tensor", "a module that takes and gives tensors")


def _block_count(model: nn.Module) -> int | None:
    """Blocks behind `output_hidden_states` of a transformers model of no family."""
    config = getattr(model, "config", None)
    for name in ("num_hidden_layers", "n_layers", "num_layers"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    stages = getattr(config, "depths", None)
    return len(stages) if stages else None
