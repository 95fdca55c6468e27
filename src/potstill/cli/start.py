"""Command that writes a recipe to start from: init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.parameters import TracebackFlag
from potstill.cli.printing import print_json
from potstill.contracts.task import TASKS, TOKEN_TASKS


def init(
    task: Annotated[str, typer.Argument(metavar="[TASK]", help=f"{', '.join((*TASKS, *TOKEN_TASKS))}.")] = next(iter(TASKS)),
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; - is stdout.")] = Path(
        "recipe.yaml"
    ),
    teacher: Annotated[str | None, typer.Option("--teacher", metavar="MODEL", help="Folder or hub id of the teacher.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="File, folder or hub id of the labelled data.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON on stdout.")] = False,
    traceback: TracebackFlag = False,
) -> None:
    """Write a recipe for a task, with every key that is often changed, its meaning and its default."""
    from potstill.ground.disk import write_new_text
    from potstill.planning.recipe_file import commented_recipe

    text = commented_recipe(task, teacher=teacher, data=data)
    if str(output) == "-":
        typer.echo(text, nl=False)
        return
    write_new_text(output, text, overwrite=overwrite)
    if as_json:
        print_json({"file": str(output), "task": task})
    else:
        typer.echo(f"{output} is written. Next: potstill plan {output}")
