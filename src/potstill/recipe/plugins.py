"""What plug-ins bring into a recipe: sections of their own, and the options of the method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.contracts.options import Options
from potstill.errors import PotstillError, RecipeError
from potstill.ground.code import is_code, may_run
from potstill.ground.tables import at, nearest, resolve
from potstill.recipe.faults import read_options, unknown_key

# Sections of the recipe beyond those of `Recipe`: name → option class.
SECTIONS: dict[str, str] = {"language": "potstill.recipe.language:LanguageOptions"}
METHODS, OPTIONS_OF = "potstill.methods.catalogue:METHODS", "potstill.methods.catalogue:options_of"
IS_METHOD = "potstill.methods.catalogue:is_known"
# Where options stood before each method had its own: section of `distill` → keys.
EARLIER = {
    "online": ("peers", "start", "decay", "consistency", "ramp_up", "noise", "noise_share", "turned_share", "itself"),
    "chain": ("assistants", "generations", "ensemble", "route"),
}


def section_of(name: str) -> type[Options]:
    """The option class of a section that a plug-in brings."""
    found: type[Options] = resolve(SECTIONS, name, kind="section")
    return found


def with_sections(merged: dict[str, Any], faults: list[PotstillError]) -> dict[str, Any]:
    """A recipe in which every section of a plug-in is an instance of its option class."""
    read = {name: read_options(section_of(name), merged.get(name, {}), faults, path=name) for name in SECTIONS}
    return {**merged, **{name: section for name, section in read.items() if section is not None}}


def methods_with_options() -> dict[str, type[Options]]:
    """The methods that have options of their own, with the class of these."""
    options_of = at(OPTIONS_OF)
    return {name: options for name in at(METHODS) if (options := options_of(name)).model_fields}


def owner_of(key: str) -> str | None:
    """The first method that has an option of this name; None where none has."""
    return next((name for name, options in methods_with_options().items() if key in options.model_fields), None)


def with_own_options(merged: dict[str, Any], faults: list[PotstillError]) -> dict[str, Any]:
    """A recipe in which `distill.options` holds every option of the method, with what these imply elsewhere.

    What `distill.online` and `distill.chain` say for the method goes there too; what they say for other methods stays.

    Args:
        merged: A recipe as a mapping; it is not changed.
    """
    distill = merged.get("distill")
    if not isinstance(distill, Mapping) or not all(isinstance(distill.get(key, {}), Mapping) for key in ("options", *EARLIER)):
        return merged
    method = distill.get("method", "auto")
    if not at(IS_METHOD)(method) or (is_code(method) and not may_run(method, is_allowed=bool(merged.get("trust_code")))):
        return merged  # the check of the recipe names the nearest method, or asks for consent
    options_of = at(OPTIONS_OF)
    given = dict(distill.get("options", {}))
    unread = {section: _open(section, distill, method, given, faults) for section in EARLIER}
    own = options_of(method)
    for key in given.keys() - own.model_fields.keys():
        faults.append(_not_of(method, key, list(own.model_fields)))
    read = read_options(
        own, {key: value for key, value in given.items() if key in own.model_fields}, faults, path="distill.options"
    )
    if read is None:
        return merged
    result = {**merged, "distill": {**distill, **unread, "options": read.model_dump()}}
    for path, value in read.implied().items():
        section, _, key = path.partition(".")
        held = result.get(section)
        if isinstance(held, Mapping) and held.get(key) is None:
            result[section] = {**held, key: value}
    return result


def _open(
    section: str, distill: Mapping[str, Any], method: str, given: dict[str, Any], faults: list[PotstillError]
) -> dict[str, Any]:
    """Move what an earlier section says for the method to its options; returns what it says otherwise for other methods."""
    unread = {}
    for key, value in distill.get(section, {}).items():
        path, owner = f"distill.{section}.{key}", owner_of(key) or ""
        if key not in EARLIER[section]:
            faults.append(unknown_key(path, EARLIER[section]))
            continue
        options = methods_with_options()[owner]
        is_usual = value == options.model_fields[key].get_default(call_default_factory=True)
        if is_usual or read_options(options, {key: value}, faults, path=f"distill.{section}") is None:
            continue
        if owner != method:
            unread[key] = value
        elif given.setdefault(key, value) != value:
            other = f"distill.options.{key}"
            faults.append(RecipeError(f"{path} and {other} are given and differ", "one of them", f"leave out {path}"))
    return unread


def _not_of(method: str, key: str, known: list[str]) -> RecipeError:
    guess, owner = nearest(key, known), owner_of(key)
    return RecipeError(
        f"method {method!r} has no option {key!r} (distill.options.{key})",
        ", ".join(known) or "no options",
        f"did you mean distill.options.{guess}?" if guess else f"set distill.method: {owner}, or leave it out" if owner else "",
    )
