"""Code of users: named as ``package.module:name`` or brought by an installed package, found and fingerprinted."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import logging
import re
import sys
import uuid
from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from potstill.errors import PotstillError, RecipeError

logger = logging.getLogger(__name__)
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
    """The name of a function, class or object in memory, under which this process finds it again.

    What can be imported has the name that imports it. Anything else (functions of a notebook, closures, lambdas, objects) has a
    hash of its content in its name, so that two of one name stay apart, and one that is made again has its name again.
    """
    name = _importable(found)
    if name is None:
        module = re.sub(r"[^\w.]", "_", getattr(found, "__module__", None) or "unnamed")
        name = f"{module}:{plain_name(found)}_{_content_of(found)[:8]}"
    _in_memory[name] = found
    return name


def plain_name(found: Any) -> str:
    """What a function, class or object is called, as a word.

    Example:
        >>> plain_name(len), plain_name(lambda x: x)
        ('len', 'lambda')
    """
    name = getattr(found, "__name__", type(found).__name__)
    return re.sub(r"\W+", "_", name).strip("_") or "unnamed"


def is_in_memory(name: str) -> bool:
    """Whether a name stands for something in memory that nothing imports."""
    return name in _in_memory and _importable(_in_memory[name]) is None


def may_run(name: str, *, is_allowed: bool) -> bool:
    """Whether code may run: the user allows it, or passed it from memory."""
    return is_allowed or name in _in_memory


def _importable(found: Any) -> str | None:
    """The name that imports a function or class; None where none does."""
    module, name = getattr(found, "__module__", None) or "", getattr(found, "__qualname__", "")
    is_there = module != "__main__" and getattr(sys.modules.get(module), name, None) is found
    return f"{module}:{name}" if is_there and is_code(f"{module}:{name}") else None


def _content_of(found: Any) -> str:
    """A hash of the code of something in memory, with the values and functions that it uses."""
    from datasets.fingerprint import Hasher

    try:
        return Hasher.hash(found)
    except Exception as err:  # whatever an object raises that cannot be pickled
        logger.warning("%s cannot be hashed (%s); what it makes is made again by every run", plain_name(found), err)
        return uuid.uuid4().hex


def require_consent(name: str, *, is_allowed: bool, key: str) -> None:
    """Refuse to import code unless the user allows it to run.

    Raises:
        RecipeError: It is not allowed; names what would run.
    """
    if not may_run(name, is_allowed=is_allowed):
        path, _, attribute = name.partition(":")
        raise RecipeError(
            f"{name} is code: the module {path} would be imported, which runs it, and {attribute} called",
            "names of the catalogue, or code that you trust",
            f"read the code, then set {key}: true",
        )


def fingerprint_of_code(name: str, group: str = "") -> str:
    """Of the file that holds the code, or of its content in memory, so that a change of it is a change of what it makes.

    Args:
        name: Of code, or of what an installed package brings for `group`.
    """
    if not is_code(name):
        return _of_file(brought(group)[name].load())
    found = find_code(name)
    if is_in_memory(name):
        return name  # which holds a hash of the content
    return _of_file(found)


def _of_file(found: Any) -> str:
    try:
        text = Path(inspect.getfile(found)).read_bytes()
    except (TypeError, OSError):  # no file holds it
        return _content_of(found)
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
