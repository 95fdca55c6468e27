"""Option classes read from mappings; their faults as one error with three parts for each key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from potstill.errors import PotstillError, RecipeError
from potstill.ground.tables import nearest

Model = TypeVar("Model", bound=BaseModel)
FLAGS = {"teacher.model": "--teacher", "teacher": "--teacher", "data.source": "--data", "data": "--data"}


def read_options(
    model: type[Model], given: Any, faults: list[PotstillError], *, path: str = "", aliases: Sequence[str] = ()
) -> Model | None:
    """An instance of an option class; None where the mapping has faults."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        prefix = f"{path}." if path else ""
        faults.extend(_joined([_fault(entry, model, prefix, aliases) for entry in error.errors()]))
        return None


def unknown_key(path: str, known: Sequence[str]) -> RecipeError:
    """That a recipe has no such key; names the nearest one."""
    section, dot, key = path.rpartition(".")
    guess = nearest(key, known)
    todo = f"did you mean {section}{dot}{guess}?" if guess else "leave it out"
    return RecipeError(f"unknown recipe key {path!r}", ", ".join(sorted(known)), todo)


def _fault(entry: Mapping[str, Any] | Any, model: type[BaseModel], prefix: str, aliases: Sequence[str]) -> RecipeError:
    path = prefix + ".".join(str(piece) for piece in entry["loc"] if not _is_branch(piece))
    if entry["type"] == "extra_forbidden":
        known = _known_keys(model, entry["loc"][:-1])
        return unknown_key(prefix + ".".join(map(str, entry["loc"])), known + ([] if entry["loc"][:-1] else list(aliases)))
    if entry["type"] == "missing":
        flag = f" or {FLAGS[path]}" if path in FLAGS else ""
        return RecipeError(f"recipe key {path!r} is missing", todo=f"give {path}{flag}")
    message = str(entry["msg"]).removeprefix("Value error, ")
    guess = nearest(str(entry["input"]), re.findall(r"'([^']+)'", message)) if entry["type"] == "literal_error" else None
    todo = f"did you mean {guess!r}?" if guess else f"change {path}"
    return RecipeError(f"recipe key {path!r} is {entry['input']!r}", _plain(message), todo)


def _joined(faults: list[RecipeError]) -> list[RecipeError]:
    """Faults of the branches of one union as one fault."""
    by_given: dict[str, RecipeError] = {}
    for fault in faults:
        earlier = by_given.get(fault.given)
        accepted = fault.accepted if earlier is None else f"{earlier.accepted}, or {fault.accepted}"
        by_given[fault.given] = RecipeError(fault.given, accepted, fault.todo)
    return list(by_given.values())


def _plain(message: str) -> str:
    wanted = message.replace("Input should be ", "").partition(", unable to parse")[0]
    return wanted.replace("a valid integer", "an integer").replace("a valid ", "a ")


def _is_branch(piece: Any) -> bool:
    """Whether pydantic named a branch of a union here and not a key."""
    return isinstance(piece, str) and (
        piece.startswith(("constrained-", "literal[", "function-", "list[", "tuple["))
        or piece in {"int", "float", "str", "dict[str,any]"}
    )


def _known_keys(model: Any, location: Sequence[Any]) -> list[str]:
    is_named = False
    for piece in location:
        if isinstance(piece, int) or is_named:
            is_named = False
            continue  # an entry of a list, or of a mapping from names, has the keys of its type
        field = model.model_fields.get(str(piece)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return []
        is_named = get_origin(field.annotation) is dict
        candidates = [field.annotation, *get_args(field.annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
