"""Code of users: named as ``package.module:name`` or brought by an installed package, found and fingerprinted."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from potstill.errors import PotstillError, RecipeError

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_in_memory: dict[str, Any] = {}


def is_code(name: object) -> bool:
    """Whether a name is one of code.

    Example:
        >>> is_code("my_losses:focal"), is_code("org/model"), is_code("kl")
        (True, False, False)
    """
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def find_code(name: str, *, wanted: str = "a function or class", error: type[PotstillError] = RecipeError) -> Callable[..., Any]:
    """Import what the name stands for; the working folder counts as a place to import from.

    Args:
        wanted: What is looked for, for the message.
        error: Class of the error.

    Raises:
        PotstillError: No such module, or nothing callable of that name in it.
    """
    if name in _in_memory:
        return _in_memory[name]  # type: ignore[no-any-return]
    path, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(path)
    except ImportError as err:
        raise error(
            f"{name} cannot be imported ({err})",
            "package.module:name, importable from the working folder or the environment",
            "check the name, or run the command from the folder that holds the file",
        ) from err
    finally:
        sys.path.remove(here)
    found = getattr(module, attribute, None)
    if not callable(found):
        names = ", ".join(sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))[:8])
        raise error(
            f"{path} has no function {attribute!r}",
            f"{wanted}; {path} has {names or 'none'}",
            "correct the name behind the colon",
        )
    return found  # type: ignore[no-any-return]


def remember(found: Callable[..., Any]) -> str:
    """The name of a function or class in memory, under which this process finds it again."""
    name = f"{getattr(found, '__module__', None) or 'unnamed'}:{getattr(found, '__name__', type(found).__name__)}"
    name = name if is_code(name) else re.sub(r"[^\w.:]", "_", name)
    _in_memory[name] = found
    return name


def require_consent(name: str, *, is_allowed: bool, key: str) -> None:
    """Refuse to import code unless the user allows it to run.

    Raises:
        RecipeError: It is not allowed; names what would run.
    """
    if not is_allowed and name not in _in_memory:
        path, _, attribute = name.partition(":")
        raise RecipeError(
            f"{name} is code: the module {path} would be imported, which runs it, and {attribute} called",
            "names of the catalogue, or code that you trust",
            f"read the code, then set {key}: true",
        )


def fingerprint_of_code(name: str) -> str:
    """Of the file that holds the code, so that a change of it is a change of what it makes."""
    found = find_code(name)
    try:
        text = Path(inspect.getfile(found)).read_bytes()
    except (TypeError, OSError):  # written in a console
        text = repr(getattr(getattr(found, "__code__", found), "co_code", name)).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


@functools.cache
def brought(group: str) -> dict[str, EntryPoint]:
    """What installed packages bring for a table: name → entry point, not yet imported."""
    return {point.name: point for point in entry_points(group=group)}


def refuse_clash(group: str, known: Collection[str]) -> None:
    """Refuse a package that brings a name which the table has.

    Raises:
        RecipeError: One does.
    """
    for name, point in brought(group).items():
        if name in known:
            owner = getattr(point.dist, "name", point.value)
            raise RecipeError(
                f"the package {owner} brings {name!r} for {group}, which Potstill has itself",
                "a name of its own",
                f"rename the entry point, or uninstall {owner}",
            )
