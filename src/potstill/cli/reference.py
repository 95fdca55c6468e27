"""Commands that say what there is: doctor, schema, losses, methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from potstill.cli.parameters import JsonFlag
from potstill.cli.printing import print_json, show

if TYPE_CHECKING:
    from rich.table import Table


def doctor(as_json: JsonFlag = False) -> None:
    """Show versions, hardware, and what is missing."""
    from potstill.doctor import examine

    findings = examine()
    show(as_json, findings.as_dict(), findings.as_table)
    if findings.missing:
        raise typer.Exit(1)


def schema(
    metrics: Annotated[bool, typer.Option("--metrics", help="The schema of metrics.json instead of a recipe's.")] = False,
) -> None:
    """Print the JSON schema of a recipe, so that editors complete and check it."""
    if metrics:
        from potstill.report.metrics import metrics_schema

        print_json(metrics_schema())
        return
    from potstill.recipe import recipe_schema

    print_json(recipe_schema())


def losses(as_json: JsonFlag = False) -> None:
    """List the losses: kind, what they need, defaults and source."""
    from potstill.losses.catalogue import describe

    show(as_json, describe(), lambda: _table("losses", describe()))


def methods(as_json: JsonFlag = False) -> None:
    """List the distillation methods: what they do, the losses that they combine, and their source."""
    from potstill.methods.catalogue import describe

    show(as_json, describe(), lambda: _table("methods", describe()))


def _table(title: str, rows: list[dict[str, str]]) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    return table
