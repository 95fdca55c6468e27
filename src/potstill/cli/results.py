"""Commands that read a finished run: evaluate, report."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill.cli.parameters import DataFlag, JsonFlag, RunFolder, TracebackFlag
from potstill.cli.printing import quiet_libraries, show


def evaluate(
    folder: RunFolder,
    data: DataFlag = None,
    task: Annotated[str | None, typer.Option("--task", help="Of several tasks, the one whose rows --data has.")] = None,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Measure a finished student again, on its own test split or on other data."""
    from potstill.flows.reevaluate import as_table, reevaluate

    quiet_libraries()
    figures = reevaluate(folder, data=data, task=task)
    show(as_json, figures, lambda: as_table(figures))


def report(
    folder: RunFolder,
    traceback: TracebackFlag = False,
) -> None:
    """Write the report again from the figures in the output folder, and say where it lies."""
    from potstill.flows.reevaluate import rewrite_report

    quiet_libraries()
    typer.echo(rewrite_report(folder))
