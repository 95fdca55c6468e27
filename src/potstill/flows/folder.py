"""The output folder of a run: claimed for a recipe, refused where it holds something else, recognised when finished."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from potstill import __version__
from potstill.contracts.task import TOKEN_TASKS
from potstill.errors import OutputError
from potstill.ground.code import is_in_memory
from potstill.ground.disk import explained_os_errors, read_json
from potstill.recipe import Recipe, make_recipe
from potstill.recipe.located import located
from potstill.recipe.model import IN_MEMORY
from potstill.report.origin import origin_of

FILE = "recipe.yaml"
FINISHED = (FILE, "student/config.json")  # files of a run whose student is there
PLACES = ("output", "store")  # keys that say where results lie, and nothing about them
OF_CODE = (".model", ".method", ".name")  # ends of keys that may name code: package.module:name
_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_HEADER = "# Resolved recipe of a Potstill"
_ASKED = "  # asked: "


def claim_folder(folder: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Write ``recipe.yaml``, unless the folder holds something else.

    A run that ended before its first stage was done holds nothing to lose: the next one may have another recipe.

    Raises:
        OutputError: It holds foreign files or results of another recipe, and `overwrite` is not given.
    """
    check_claim(folder, recipe, overwrite=overwrite)
    write_recipe(folder, recipe, {}, unrepeatable_in(recipe))


def check_claim(folder: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Refuse a folder that `claim_folder` would refuse, and one that is no folder; nothing is written.

    Raises:
        OutputError: It is a file, holds foreign files or results of another recipe, and `overwrite` is not given.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file", "a new or empty folder", "choose another folder with -o")
    held = _held(folder)
    if held is None and _names_in(folder) and not overwrite:
        raise OutputError(
            f"{folder} holds files that are no run of Potstill",
            "a new or empty folder, or the folder of the same recipe",
            "choose another folder with -o, or allow it with --overwrite",
        )
    wanted = _without_places(_plain(recipe))
    differences = [] if held is None else min((_differences(each, wanted) for each in held), key=len)
    if differences and not overwrite and _holds_results(folder):
        raise OutputError(
            f"{folder} holds the run of another recipe; different: {'; '.join(differences[:4])}",
            "the same recipe, or a new folder",
            "choose another folder with -o, or --overwrite to do again what depends on the difference",
        )


def check_finished(folder: Path, *needs: str) -> None:
    """Refuse a folder that holds no finished run.

    Args:
        needs: Files that the run must have left, relative to the folder.

    Raises:
        OutputError: One of them is not there; names the run that the folder is a part of, where it is.
    """
    if all((folder / file).is_file() for file in needs):
        return
    around = next((each for each in folder.absolute().parents if all((each / file).is_file() for file in needs)), None)
    todo = "run potstill distill -o there first" if around is None else f"give the folder of the run: {around}"
    raise OutputError(f"{folder} holds no finished run", "the output folder of potstill distill", todo)


def check_answers_rows(folder: Path) -> None:
    """Refuse a folder that holds no finished run, and one whose student predicts tokens.

    Raises:
        OutputError: See `check_finished`; or its rows have no answers that could be named or compared.
    """
    check_finished(folder, *FINISHED)
    names = (read_json(folder / "student" / "config.json") or {}).get("architectures") or ()
    if any(name.endswith(endings) for name in names for endings in TOKEN_TASKS.values()):
        raise OutputError(
            f"{folder} holds a student that predicts tokens",
            "a run whose rows have answers: labels, numbers, tags, spans or vectors",
            f"generate with it: transformers.AutoModelForCausalLM.from_pretrained('{folder / 'student'}')",
        )


def as_asked(folder: Path, recipe: Recipe) -> Recipe:
    """The recipe as it was asked for, where it is the resolved one of the run in the folder; else as it is.

    So the file that a run left finds the results of that run.
    """
    held = _held(folder)
    if held is None or not (folder / FILE).is_file() or _differences(held[0], _without_places(_plain(recipe))):
        return recipe
    return make_recipe(held[1], {key: value for key in PLACES if (value := getattr(recipe, key)) is not None})


def recipe_of_run(folder: Path) -> Recipe:
    """The recipe of the run in a folder, as it was asked for."""
    held = _held(folder)
    assert held is not None
    return make_recipe(held[1], {"output": str(folder)})


def write_recipe(folder: Path, recipe: Recipe, resolved: Mapping[str, Any], unrepeatable: Sequence[str]) -> None:
    """Write ``recipe.yaml``: whole paths, the values that were open and are known now, and what cannot be repeated.

    Args:
        resolved: Dotted key → value; what the recipe said stands behind it as a comment.
        unrepeatable: Sentences.
    """
    plain = _plain(recipe)
    asked = {path: _at(plain, path) for path in resolved}
    for path, value in resolved.items():
        _put(plain, path, value)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=10**6)
    lines = [
        f"{line}{_ASKED}{_in_line(asked[path])}" if path in asked else line for path, line in _paths_of_lines(text.splitlines())
    ]
    head = [
        f"{_HEADER} {__version__} run; repeat it with: potstill distill {FILE} -o another-folder",
        *(["# 'asked' is what the recipe said before the run chose."] if asked else []),
        *(f"# Cannot be repeated: {sentence}" for sentence in unrepeatable),
    ]
    with explained_os_errors(folder / FILE):
        (folder / FILE).write_text("\n".join([*head, *lines, ""]), "utf-8")


def facts_of_recipe(recipe: Recipe) -> dict[str, Any]:
    """What a report says of a recipe, by the names of fields of `report.metrics.Metrics`."""
    named = located(recipe)
    sources = [task.data.source for task in named.tasks.values()] or [named.data.source]
    teachers = [task.teacher.model for task in named.tasks.values()] or [one.model for one in named.teacher.all]
    return {"unrepeatable": unrepeatable_in(recipe), **origin_of(teachers, sources)}


def unrepeatable_in(recipe: Recipe) -> list[str]:
    """What of a recipe was in memory or is code, so that a file cannot repeat it: sentences."""
    plain, found = _plain(recipe), []
    for path, value in _leaves(plain):
        if isinstance(value, str) and value.startswith(IN_MEMORY[:-1]):
            found.append(f"{path} was in memory; name a file or folder in its place, or run the Python program again")
        elif isinstance(value, str) and (path.endswith(OF_CODE) or path.startswith("distill.losses[")) and _CODE.fullmatch(value):
            if is_in_memory(value):
                found.append(f"{path} was in memory; save it in a file and name it package.module:name, or run the program again")
                continue
            found.append(f"{path} is code, {value}, which this run imported from {Path.cwd()}; run the recipe there")
    return found


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The values of a recipe with whole paths; an object that no file can hold is named by its type."""
    plain: dict[str, Any] = located(recipe).model_dump(
        mode="json", fallback=lambda value: f"{IN_MEMORY[:-1]}: {getattr(value, '__name__', type(value).__name__)}>"
    )
    return plain


def _without_places(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if key not in PLACES}


def _holds_results(folder: Path) -> bool:
    """Whether a stage of the run in this folder was done, or something lies there that a person may have put there."""
    if not (folder / FILE).read_text("utf-8").startswith(_HEADER) or _names_in(folder) - {FILE, "work"}:
        return True
    work = folder / "work"
    return work.is_dir() and any(not item.name.endswith(".partial") for item in work.iterdir())


def _names_in(folder: Path) -> set[str]:
    """What lies in the output folder but for locks and hidden files."""
    return {item.name for item in folder.iterdir() if not item.name.startswith((".", "run"))}


def _held(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The recipe in a folder with its resolved values, and as it was asked for; None where there is none that can be read."""
    try:
        text = (folder / FILE).read_text("utf-8")
        resolved = yaml.safe_load(text)
        asked = yaml.safe_load(text)
        if not isinstance(resolved, dict):
            return None
        for path, line in _paths_of_lines(text.splitlines()):
            if _ASKED in line and path:
                _put(asked, path, yaml.safe_load(line.rpartition(_ASKED)[2]))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return _without_places(resolved), _without_places(asked)


def _paths_of_lines(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The dotted key of each line of a YAML mapping in block style, empty where it has none of its own; and the line."""
    above: list[tuple[int, str]] = []
    for line in lines:
        key, colon, _ = line.partition(":")
        if not colon or key.lstrip().startswith(("-", "#")):
            yield "", line
            continue
        depth = len(key) - len(key.lstrip())
        above = [*(each for each in above if each[0] < depth), (depth, key.strip())]
        yield ".".join(name for _, name in above), line


def _in_line(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).splitlines()[0]


def _at(plain: Mapping[str, Any], path: str) -> Any:
    value: Any = plain
    for key in path.split("."):
        value = value[key]
    return value


def _put(plain: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        plain = plain[section]
    plain[key] = value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _leaves(each, f"{path}[{number}]")
    else:
        yield path, value


def _differences(held: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> list[str]:
    found = []
    for key in [*held, *(key for key in wanted if key not in held)]:
        before, after = held.get(key), wanted.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{path}{key}.")
        elif before != after:
            found.append(f"{path}{key} was {before!r}, is {after!r}")
    return found
