"""Commands that say what there is: doctor, schema, losses, methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shutil import get_terminal_size
from typing import Annotated, Any

import typer

from potstill.cli.parameters import JsonFlag, LossName, MethodName, TracebackFlag
from potstill.cli.printing import print_json, show
from potstill.ground.tables import look_up

MIN_WIDTH = 60


def doctor(as_json: JsonFlag = False, traceback: TracebackFlag = False) -> None:
    """Show versions, hardware, and what is missing."""
    from potstill.doctor import examine

    findings = examine()
    show(as_json, findings.as_dict(), findings.as_table)
    if findings.missing:
        raise typer.Exit(1)


def schema(
    metrics: Annotated[bool, typer.Option("--metrics", help="The schema of metrics.json instead of a recipe's.")] = False,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Print the JSON schema of a recipe, so that editors complete and check it; it is JSON with or without --json."""
    if metrics:
        from potstill.report.metrics import metrics_schema

        print_json(metrics_schema())
        return
    from potstill.recipe import recipe_schema

    print_json(recipe_schema())


def losses(name: LossName = None, as_json: JsonFlag = False, traceback: TracebackFlag = False) -> None:
    """List the losses, a line each; with a name, show what it needs, its options and its source."""
    from potstill.losses import catalogue

    if name is None:
        _list(as_json, "losses", catalogue.overview(), catalogue.OF_DEFAULT, "part of the default method")
        return
    look_up(catalogue.LOSSES, name, kind="loss")
    _detail(as_json, catalogue.describe(name))


def methods(name: MethodName = None, as_json: JsonFlag = False, traceback: TracebackFlag = False) -> None:
    """List the distillation methods, a line each; with a name, show its phases, terms, options and source."""
    from potstill.methods import catalogue

    if name is None:
        defaults = (catalogue.DEFAULT, catalogue.DEFAULT_ON_MANY_ROWS)
        why = f"the default: {defaults[1]} where more rows can be made, as of texts, else {defaults[0]}"
        _list(as_json, "methods", catalogue.overview(), defaults, why)
        return
    if name != "auto":
        look_up(catalogue.METHODS, name, kind="method")
    _detail(as_json, catalogue.describe(name))


def _list(as_json: bool, what: str, rows: list[dict[str, str]], defaults: Sequence[str], why: str) -> None:
    """A line for each row, by group, as wide as the terminal."""
    if as_json:
        print_json([{**row, "is_default": row["name"] in defaults} for row in rows])
        return
    width, group = max(MIN_WIDTH, get_terminal_size().columns), ""
    column = max(len(row["name"]) for row in rows) + 2
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            typer.echo(group)
        line = f"{'*' if row['name'] in defaults else ' '} {row['name']:<{column}}{row['about']}"
        typer.echo(line if len(line) <= width else f"{line[: width - 1].rstrip()}…")
    typer.echo(f"\n* {why}.\n`potstill {what} NAME` shows everything about one.")


def _detail(as_json: bool, found: Mapping[str, Any]) -> None:
    """Every value under its name."""
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value, 1)
            typer.echo(f"{key}:" if value else f"{key}: none")
            for name, entry in items:
                typer.echo(f"  {name}: {_in_words(entry)}")
        elif "\n" in str(value):
            typer.echo(f"{key}:\n" + "\n".join(f"  {line}".rstrip() for line in str(value).splitlines()))
        else:
            typer.echo(f"{key}: {value}")


def _in_words(value: Any) -> str:
    """A value in one line: mappings as ``key value, …``, lists joined by +."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return " + ".join(f"({_in_words(each)})" for each in value)
    return str(value)
