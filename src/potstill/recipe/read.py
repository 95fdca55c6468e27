"""From YAML files, command-line flags and Python mappings to one checked Recipe."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from potstill.errors import PotstillError, RecipeError, raise_faults
from potstill.recipe import plugins
from potstill.recipe.faults import paths_of, read_options, unknown_key
from potstill.recipe.model import ARCHITECTURES, Recipe
from potstill.recipe.tasks import open_tasks, with_sections

# Keys that the field's users know → where they live in a recipe.
ALIASES: Mapping[str, str] = {
    "teacher_model": "teacher.model",
    "student_arch": "student.model",
    "plain": "student.plain",
    "compression_ratio": "student.ratio",
    "ratio": "student.ratio",
    "task_type": "task",
    "quantization": "quantize.mode",
    "hardware_target": "target",
    "temperature": "distill.temperature",
    "alpha": "distill.alpha",
    "method": "distill.method",
    "epochs": "distill.epochs",
    "learning_rate": "distill.learning_rate",
    "losses": "distill.losses",
    "unlabelled": "data.unlabelled",
    "unlabeled": "data.unlabelled",
    "output_dir": "output",
}
# A plain value for a section stands for its first key.
SHORTHANDS: Mapping[str, str] = {"teacher": "model", "data": "source", "quantize": "mode"}
# Keys of `teacher` that are those of all teachers, and keys that name some.
OF_ALL = ("combine", "weights", "anchors")
LISTS = ("models", "others", "model")
_QUANTIZATION_WORDS = {False: "none", None: "none", True: "auto", "int8": "int8"}


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a YAML recipe into a mapping.

    Raises:
        RecipeError: The file is missing, is no valid YAML, or holds no mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise RecipeError(f"recipe {str(path)!r} is not a file", "a YAML file", "check the path, or start from one in recipes/")
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_OnceLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1},"
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"recipe {str(path)!r}{where} is no valid YAML: {what}", "a YAML file", "correct the file") from error
    if content is None:
        raise RecipeError(f"recipe {str(path)!r} is empty", "a mapping of keys to values", "start from one in recipes/")
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise RecipeError(f"recipe {str(path)!r} holds {kind}", "a mapping of keys to values", "start from one in recipes/")
    return content


class _OnceLoader(yaml.SafeLoader):
    """Reads YAML in which no mapping has a key twice; the plain one would drop the first without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise RecipeError(
                f"the key {twice!r} is given twice in one mapping of the recipe", "each key once", "rename or remove one"
            )
        return super().construct_mapping(node, deep=deep)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Turn ``key.path=value`` texts into a nested mapping; values are read as YAML.

    Raises:
        RecipeError: A text without `=`.

    Example:
        >>> parse_settings(["distill.epochs=5", "baseline=true"])
        {'distill': {'epochs': 5}, 'baseline': True}
    """
    result: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {setting!r} has no key=value", "for example distill.epochs=5", "write --set key=value")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {setting!r}: the value is no valid YAML", "for example --set distill.epochs=5") from error
        if isinstance(parsed, str):
            parsed = _number_or_text(parsed)
        result = merge(result, _nested(key.strip(), parsed))
    return result


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `change` laid over it, section by section; neither is changed."""
    merged = dict(copy.deepcopy(dict(base)))
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def make_recipe(*parts: Mapping[str, Any]) -> Recipe:
    """Check mappings, later ones laid over earlier ones, and return the Recipe.

    Raises:
        RecipeError: One fault.
        Faults: Several faults, all of them.
    """
    faults: list[PotstillError] = []
    merged: dict[str, Any] = {}
    for part in parts:
        laid_over = _canonical(part, faults)
        merged = merge(_without_options_of_another_method(merged, laid_over), laid_over)
    merged = open_tasks(open_teachers(merged, faults), faults)
    merged = plugins.with_sections(plugins.with_own_options(merged, faults), faults)
    known = [*Recipe.model_fields, *plugins.SECTIONS]
    if any(key not in known for key in merged):
        own = [f"{name}.{key}" for name in plugins.SECTIONS for key in paths_of(plugins.section_of(name))]
        everywhere = [*paths_of(Recipe), *own]
        faults += [unknown_key(key, [*known, *ALIASES], everywhere) for key in merged if key not in known]
    recipe = read_options(Recipe, {key: value for key, value in merged.items() if key in known}, faults)
    raise_faults(faults)
    assert recipe is not None
    return recipe


def open_teachers(merged: dict[str, Any], faults: list[PotstillError]) -> dict[str, Any]:
    """`teachers: [a, b]` and `teacher: {models: [a, b], …}` in the form `teacher: {model: a, others: [{model: b}], …}`.

    The section's other settings (epochs, finetune …) hold for every teacher that has none of its own.

    Args:
        merged: A recipe as a mapping; it is not changed.
    """
    section = merged.get("teacher", {})
    if not isinstance(section, Mapping) or ("teachers" not in merged and "models" not in section):
        return merged
    rest = {key: value for key, value in merged.items() if key not in ("teacher", "teachers")}
    name, given = ("teachers", merged["teachers"]) if "teachers" in merged else ("teacher.models", section["models"])
    models = [{"model": one} if isinstance(one, str) else one for one in given] if isinstance(given, list) else []
    rivals = [key for key in LISTS if key in section and f"teacher.{key}" != name]
    if not models or not all(isinstance(one, Mapping) for one in models):
        faults.append(
            RecipeError(f"{name} is {given!r}", "a list of folders, hub ids or mappings with a model", f"change {name}")
        )
        models = [{"model": "?"}]
    elif rivals:
        faults.append(
            RecipeError(f"{name} and teacher.{rivals[0]} are both given", "one of them", f"leave out {name} or the other")
        )
    shared = {key: value for key, value in section.items() if key not in (*LISTS, *OF_ALL)}
    joint = {key: section[key] for key in OF_ALL if key in section}
    return {**rest, "teacher": {**shared, **joint, **models[0], "others": [{**shared, **one} for one in models[1:]]}}


def _without_options_of_another_method(merged: dict[str, Any], laid_over: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe so far; its `distill.options` belong to its method, and go where what is laid over it names another one."""
    before, after = merged.get("distill"), laid_over.get("distill")
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return merged
    is_same = after.get("method", before.get("method")) == before.get("method")
    return merged if is_same else {**merged, "distill": {key: value for key, value in before.items() if key != "options"}}


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors and for the reference page."""
    schema = Recipe.model_json_schema() | {"additionalProperties": False}
    own = plugins.methods_with_options()
    for name, options in (*own.items(), *((name, plugins.section_of(name)) for name in plugins.SECTIONS)):
        part = options.model_json_schema()
        schema["$defs"] |= {**part.pop("$defs", {}), options.__name__: part}
        if name in plugins.SECTIONS:
            schema["properties"][name] = {"$ref": f"#/$defs/{options.__name__}"}
    of_a_method = [{"$ref": f"#/$defs/{options.__name__}"} for options in own.values()]
    schema["$defs"]["DistillRecipe"]["properties"]["options"]["allOf"] = [{"anyOf": [*of_a_method, {"maxProperties": 0}]}]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Potstill recipe"
    return schema


def _canonical(part: Mapping[str, Any], faults: list[PotstillError]) -> dict[str, Any]:
    """Shorthands opened and aliases moved to their home."""
    result: dict[str, Any] = {}
    for key, value in part.items():
        if key in SHORTHANDS and not isinstance(value, Mapping):
            home = {key: {SHORTHANDS[key]: _quantization(value) if key == "quantize" else value}}
        elif key == "tasks":
            home = {"tasks": with_sections(value)}
        elif key == "student_arch" and value in ARCHITECTURES.names():
            home = {"student": {"architecture": value}}
        elif key in ALIASES:
            home = _nested(ALIASES[key], _quantization(value) if key == "quantization" else value)
        else:
            home = {key: value}
        clash = _clash(result, home)
        if clash:
            faults.append(
                RecipeError(
                    f"{key!r} sets {clash}, which another key sets to something else",
                    "one value",
                    f"leave out {key!r} or the other key",
                )
            )
            continue
        result = merge(result, home)
    return result


def _clash(base: Mapping[str, Any], change: Mapping[str, Any], path: str = "") -> str | None:
    for key, value in change.items():
        here = f"{path}{key}"
        if key not in base:
            continue
        if isinstance(value, Mapping) and isinstance(base[key], Mapping):
            found = _clash(base[key], value, f"{here}.")
            if found:
                return found
        elif base[key] != value:
            return here
    return None


def _quantization(value: Any) -> Any:
    return _QUANTIZATION_WORDS.get(value, value) if isinstance(value, bool) or value is None else str(value).lower()


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def _number_or_text(text: str) -> Any:
    try:
        return float(text)  # YAML 1.1 reads 1e-4 as text
    except ValueError:
        return text
