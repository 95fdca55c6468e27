"""Networks of users, named in a recipe as ``package.module:function``: found, called, and only where code is trusted."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from potstill.errors import ModelError, RecipeError
from potstill.ground.code import find_code, is_code

IN_MEMORY = "<in memory>"

# Factories that this process may call; a saved model names its factory, and loading it must not run whatever it names.
_trusted: dict[str, Callable[..., Any]] = {}


def is_factory(name: str | None) -> bool:
    """Whether the name of a model is a function that makes it.

    Example:
        >>> is_factory("my_nets.small:build"), is_factory("org/model"), is_factory("./folder")
        (True, False, False)
    """
    return is_code(name)


def find_factory(name: str) -> Callable[..., Any]:
    """Import the function; the working folder counts as a place to import from.

    Raises:
        ModelError: No such module, or nothing callable of that name in it.
    """
    return find_code(name, wanted="a function or class that gives a torch.nn.Module", error=ModelError)


def require_trust(name: str, *, is_allowed: bool, key: str) -> None:
    """Refuse to import a factory unless the user allows its code to run.

    Raises:
        RecipeError: It is not allowed.
    """
    if not is_allowed:
        raise RecipeError(
            f"{name} is code, which runs when it is imported",
            "a folder or hub id with safetensors, or code that you trust",
            f"read the code, then set {key}: true",
        )


def trust(name: str) -> None:
    """Let models that name this factory be made, in this process."""
    _trusted[name] = find_factory(name)


def trust_module(module: nn.Module) -> str:
    """Let models saved from a module in memory be loaded again in this process; returns the name that they carry."""
    _trusted[IN_MEMORY] = lambda: copy.deepcopy(module)
    return IN_MEMORY


def make(name: str, num_labels: int | None = None) -> tuple[nn.Module, Any]:
    """Call a trusted factory.

    Args:
        name: ``package.module:function``.
        num_labels: Passed on where the function takes `num_labels` or `num_classes`.

    Returns:
        The network, and the image processor where the function gives the two as a pair, else None.

    Raises:
        ModelError: The factory is not trusted here, fails, or gives something else.
    """
    if name not in _trusted:
        raise ModelError(
            f"this model is made by {name}, and that code is not trusted here",
            "models without code, or code that you trust",
            "load it with potstill.load(folder, trust_remote_code=True), or set trust_remote_code: true in the recipe",
        )
    factory = _trusted[name]
    taken = inspect.signature(factory).parameters
    options = {key: num_labels for key in ("num_labels", "num_classes") if key in taken and num_labels is not None}
    try:
        made = factory(**options)
    except Exception as err:
        raise ModelError(
            f"{name} failed: {type(err).__name__}: {err}",
            "a function that needs no argument, or only num_labels",
            "call it yourself and correct it",
        ) from err
    network, processor = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{name} gave {type(network).__name__}",
            "a torch.nn.Module, or a pair (module, image processor)",
            "return the network itself",
        )
    return network, processor
