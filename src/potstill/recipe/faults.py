"""Option classes read from mappings; their faults as one error with three parts for each key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from potstill.errors import PotstillError, RecipeError
from potstill.ground.tables import nearest

Model = TypeVar("Model", bound=BaseModel)
FLAGS = {
    "teacher.model": "--teacher",
    "teacher": "--teacher",
    "data.source": "--data",
    "data": "--data",
    "student.ratio": "--ratio",
}
CLOSE = 0.8  # similarity of a slip of the finger
FIRST_SECTION = "distill."  # of several homes of a key, the one of the student's training is named first


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


def unknown_key(path: str, known: Sequence[str], everywhere: Sequence[str] = ()) -> RecipeError:
    """That a recipe has no such key; names the places where a key of this name is, or the nearest one.

    Args:
        known: The keys that are accepted in this place.
        everywhere: Paths of all keys of the recipe.
    """
    section, dot, key = path.rpartition(".")
    here = nearest(key, known, CLOSE)
    anywhere = None if here else nearest(key, [_leaf(each) for each in everywhere], CLOSE)
    homes = sorted((each for each in everywhere if _leaf(each) == anywhere), key=lambda each: not each.startswith(FIRST_SECTION))
    near = here or nearest(key, known)
    guess = " or ".join(homes) or (f"{section}{dot}{near}" if near else "")
    return RecipeError(
        f"unknown recipe key {path!r}", ", ".join(sorted(known)), f"did you mean {guess}?" if guess else "leave it out"
    )


def paths_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The paths of all keys of an option class, those of its sections too.

    Example:
        >>> from potstill.recipe.model import Recipe
        >>> [path for path in paths_of(Recipe) if path.endswith("patience")]
        ['distill.patience']
    """
    found = []
    for name, field in model.model_fields.items():
        found.append(f"{prefix}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += paths_of(field.annotation, f"{prefix}{name}.")
    return found


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _fault(entry: Mapping[str, Any] | Any, model: type[BaseModel], prefix: str, aliases: Sequence[str]) -> RecipeError:
    path = prefix + ".".join(str(piece) for piece in entry["loc"] if not _is_branch(piece))
    if entry["type"] == "extra_forbidden":
        known = _known_keys(model, entry["loc"][:-1])
        known += [] if entry["loc"][:-1] else list(aliases)
        return unknown_key(prefix + ".".join(map(str, entry["loc"])), known, [prefix + each for each in paths_of(model)])
    if entry["type"] == "missing":
        flag = f" or {FLAGS[path]}" if path in FLAGS else ""
        return RecipeError(f"recipe key {path!r} is missing", todo=f"give {path}{flag}")
    message, _, guess = str(entry["msg"]).removeprefix("Value error, ").partition("; did you mean ")
    flag = f" ({FLAGS[path]})" if path in FLAGS else ""
    todo = f"did you mean {guess}" if guess else _guess(entry, message) or f"change {path}{flag}"
    return RecipeError(f"recipe key {path!r} is {entry['input']!r}", _plain(message), todo)


def _guess(entry: Mapping[str, Any] | Any, message: str) -> str:
    """What was probably meant: the nearest of the names that are accepted, or per cent."""
    given, context = entry["input"], entry.get("ctx", {})
    if entry["type"] == "literal_error":
        near = nearest(str(given), re.findall(r"'([^']+)'", message))
        return f"did you mean {near!r}?" if near else ""
    is_share = entry["type"] == "less_than_equal" and context.get("le") == 1 and isinstance(given, int | float)
    return f"did you mean {given / 100:g}?" if is_share and 1 < given <= 100 else ""


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
