"""Write the reference pages that follow from the code: docs/recipe.md, docs/metrics.md and docs/functional.md.

python docs/generate.py           # write them
python docs/generate.py --check   # exit code 1 where they are out of date
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from potstill.losses import functional
from potstill.losses.catalogue import GROUPS, function
from potstill.recipe import recipe_schema
from potstill.recipe.plugins import methods_with_options
from potstill.recipe.read import ALIASES, SHORTHANDS
from potstill.report.metrics import metrics_schema

FOLDER = Path(__file__).parent
HEAD = ("| key | accepts | default | meaning |", "|---|---|---|---|")


def pages() -> dict[str, str]:
    """File name → content."""
    return {"recipe.md": recipe_page(), "metrics.md": metrics_page(), "functional.md": functional_page()}


def recipe_page() -> str:
    """Every key of a recipe with its type, default and meaning."""
    schema = recipe_schema()
    lines = [
        "# Recipe reference",
        "",
        "Written by `python docs/generate.py` from the code. `potstill schema` prints the same as a JSON schema for editors.",
        "Every key can be given in a YAML file, in a Python mapping, or as `--set key=value` on the command line.",
        "",
    ]
    top = [name for name, value in schema["properties"].items() if _section(schema, value) is None]
    lines += ["## Top level", "", *_table(schema, {name: schema["properties"][name] for name in top}, "", schema), ""]
    for name, value in schema["properties"].items():
        lines += _part(schema, name, value, "##")
    lines += [
        "## Other names",
        "",
        "Keys that the field's users know, and where they belong:",
        "",
        "| key | the same as |",
        "|---|---|",
    ]
    lines += [f"| `{alias}` | `{home}` |" for alias, home in ALIASES.items()]
    lines += [f"| `{section}: value` | `{section}.{key}: value` |" for section, key in SHORTHANDS.items()]
    return "\n".join(lines) + "\n"


def _part(schema: dict[str, Any], path: str, value: dict[str, Any], level: str) -> list[str]:
    """A section with its table, then the sections within it."""
    section = _section(schema, value)
    if section is None:
        return []
    inner = {name: part for name, part in section["properties"].items() if _section(schema, part) is not None}
    plain = {name: part for name, part in section["properties"].items() if name not in inner}
    lines = [f"{level} {path}", "", section.get("description", ""), "", *_table(schema, plain, f"{path}.", section), ""]
    if path == "distill":
        lines += _options_of_methods(level)
    return lines + [line for name, part in inner.items() for line in _part(schema, f"{path}.{name}", part, f"{level}#")]


def _options_of_methods(level: str) -> list[str]:
    """One table of the options that methods have of their own."""
    rows: list[str] = []
    for method, options in methods_with_options().items():
        schema = options.model_json_schema()
        for row in _table(schema, schema["properties"], "distill.options.", schema)[2:]:
            *head, meaning = row.rsplit(" | ", 1)
            rows.append(f"{head[0]} | {method}: {meaning}")
    return [f"{level}# distill.options", "", "The options that methods have of their own.", "", *HEAD, *rows, ""]


def metrics_page() -> str:
    """Every field of metrics.json."""
    schema = metrics_schema()
    lines = [
        "# metrics.json",
        "",
        "Written by `python docs/generate.py` from the code. `potstill schema --metrics` prints the JSON schema.",
        "",
        "## The document",
        "",
        *_table(schema, schema["properties"], "", schema),
        "",
    ]
    for name, part in sorted(schema["$defs"].items()):
        lines += [f"## {name}", "", part.get("description", ""), "", *_table(schema, part["properties"], "", part), ""]
    return "\n".join(lines) + "\n"


def functional_page() -> str:
    """Every loss as a pure function, by group; the site fills in signatures and docstrings."""
    lines = [
        "# Pure functions of losses",
        "",
        "`from potstill.losses import functional`: each loss of the catalogue as a function of tensors, without state.",
        "Written by `python docs/generate.py` from the code; [Losses](losses.md) says when to use which.",
        "",
    ]
    for group, losses in GROUPS.items():
        lines += [f"## {group.capitalize()}", ""]
        for name in losses:
            lines += [
                f"::: {function(name).__module__}.{name}",
                f"    options: {{heading: functional.{name}, heading_level: 3}}",
                "",
            ]
    lines += ["## From hidden states", ""]
    for name in functional.OF_HEADS:
        place = f"{getattr(functional, name).__module__}.{name}"
        lines += [f"::: {place}", f"    options: {{heading: functional.{name}, heading_level: 3}}", ""]
    return "\n".join(lines)


def _section(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any] | None:
    reference = value.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[-1]] if reference else None


def _table(schema: dict[str, Any], properties: dict[str, Any], prefix: str, owner: dict[str, Any]) -> list[str]:
    required = set(owner.get("required", ()))
    lines = list(HEAD)
    for name, value in properties.items():
        default = "required" if name in required else _shown(value.get("default"))
        meaning = value.get("description", "").replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {_accepts(value)} | {default} | {meaning} |")
    return lines


def _accepts(value: dict[str, Any]) -> str:
    if "$ref" in value:
        return f"[{value['$ref'].rsplit('/', 1)[-1]}](#{value['$ref'].rsplit('/', 1)[-1].lower()})"
    if "enum" in value:
        return ", ".join(f"`{word}`" for word in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_accepts(part) for part in value["anyOf"]))
    kind = {"null": "nothing", "object": "mapping", "array": "list"}.get(value.get("type", ""), value.get("type", "anything"))
    bounds = [f"{sign} {value[key]}" for key, sign in _BOUNDS.items() if key in value]
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _shown(default: Any) -> str:
    return "–" if default is None or default in ({}, []) else f"`{default}`"


def main() -> None:
    """Write or check the pages."""
    stale = []
    for name, text in pages().items():
        file = FOLDER / name
        if "--check" in sys.argv and (not file.is_file() or file.read_text("utf-8") != text):
            stale.append(name)
        elif "--check" not in sys.argv:
            file.write_text(text, "utf-8")
    if stale:
        sys.exit(f"out of date: {', '.join(stale)}; run python docs/generate.py")


if __name__ == "__main__":
    main()
