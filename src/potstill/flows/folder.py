"""The output folder of a run: claimed for a recipe, refused where it holds something else, recognised when finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from potstill import __version__
from potstill.errors import OutputError
from potstill.ground.disk import explained_os_errors
from potstill.recipe import Recipe

PLACES = ("output", "store")  # keys that say where results lie, and nothing about them
FINISHED = ("recipe.yaml", "student/config.json")  # files of a run whose student is there
_HEADER = "# Resolved recipe of a Potstill"


def claim_folder(folder: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Write ``recipe.yaml``, unless the folder holds something else.

    A run that ended before its first stage was done holds nothing to lose: the next one may have another recipe.

    Raises:
        OutputError: It holds foreign files or results of another recipe, and `overwrite` is not given.
    """
    check_claim(folder, recipe, overwrite=overwrite)
    file = folder / "recipe.yaml"
    with explained_os_errors(file):
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        file.write_text(f"{_HEADER} {__version__} run; repeat it with: potstill distill recipe.yaml\n{text}", "utf-8")


def check_claim(folder: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Refuse a folder that `claim_folder` would refuse, and one that is no folder; nothing is written.

    Raises:
        OutputError: It is a file, holds foreign files or results of another recipe, and `overwrite` is not given.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file", "a new or empty folder", "choose another folder with -o")
    wanted = recipe.model_dump(mode="json")
    held = _held_recipe(folder / "recipe.yaml")
    if held is None and _names_in(folder) and not overwrite:
        raise OutputError(
            f"{folder} holds files that are no run of Potstill",
            "a new or empty folder, or the folder of the same recipe",
            "choose another folder with -o, or allow it with --overwrite",
        )
    differences = [] if held is None else _differences(held, {key: value for key, value in wanted.items() if key not in PLACES})
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


def _holds_results(folder: Path) -> bool:
    """Whether a stage of the run in this folder was done, or something lies there that a person may have put there."""
    if not (folder / "recipe.yaml").read_text("utf-8").startswith(_HEADER) or _names_in(folder) - {"recipe.yaml", "work"}:
        return True
    work = folder / "work"
    return work.is_dir() and any(not item.name.endswith(".partial") for item in work.iterdir())


def _names_in(folder: Path) -> set[str]:
    """What lies in the output folder but for locks and hidden files."""
    return {item.name for item in folder.iterdir() if not item.name.startswith((".", "run"))}


def _held_recipe(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        held = yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError:
        return None
    return {key: value for key, value in held.items() if key not in PLACES} if isinstance(held, dict) else None


def _differences(held: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> list[str]:
    found = []
    for key in [*held, *(key for key in wanted if key not in held)]:
        before, after = held.get(key), wanted.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{path}{key}.")
        elif before != after:
            found.append(f"{path}{key} was {before!r}, is {after!r}")
    return found
