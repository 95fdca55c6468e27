"""Commands that read a finished run: evaluate, push, report."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill.cli.parameters import DataFlag, JsonFlag, RunFolder, TracebackFlag
from potstill.cli.printing import print_json, quiet_libraries, show


def evaluate(
    folder: RunFolder,
    data: DataFlag = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Of several tasks, the one whose rows --data has.")
    ] = None,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Measure a finished student again, on its own test split or on other data."""
    from potstill.flows.folder import FINISHED, check_finished

    check_finished(folder, *FINISHED)
    from potstill.flows.reevaluate import as_table, reevaluate

    quiet_libraries()
    figures = reevaluate(folder, data=data, task=task)
    show(as_json, figures, lambda: as_table(figures))


def push(
    folder: RunFolder,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository of the hub; made where it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Upload a finished run to the Hugging Face hub: the student, its exports and the model card, without internals."""
    from potstill.flows.folder import check_finished

    check_finished(folder, "report/metrics.json", "student/config.json")
    from potstill.report.publish import push_to_hub

    address = push_to_hub(folder, repository, private=private)
    if as_json:
        print_json({"commit": address})
    else:
        typer.echo(address)


def report(
    folder: RunFolder,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Write the report again from the figures in the output folder, and say where it lies."""
    from potstill.flows.folder import check_finished

    check_finished(folder, "report/metrics.json")
    from potstill.flows.reevaluate import rewrite_report

    quiet_libraries()
    page = str(rewrite_report(folder))
    if as_json:
        print_json({"report": page})
    else:
        typer.echo(page)
