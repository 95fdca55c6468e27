"""Commands that use a finished run: predict, compare, export."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potstill.cli.parameters import JsonFlag, RunFolder, TracebackFlag
from potstill.cli.printing import print_json, quiet_libraries

if TYPE_CHECKING:
    from potstill.flows.prediction import Prediction

OverwriteFile = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]


def predict(
    folder: RunFolder,
    data: Annotated[str, typer.Option("--data", metavar="DATA", help="File, folder of images or hub id; labels are not needed.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write: .csv, .tsv, .jsonl or .parquet; without it, CSV on stdout."
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", metavar="student|teacher", help="Which model answers.")] = "student",
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime", metavar="NAME", help="torch, onnx, openvino, int8 …; without it, the export that the run chose."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Of several tasks, the one to answer; without it, all.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="SPLIT", help="Of data with several splits, the one to read.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="ROLE=NAME", help="ROLE=NAME, as text=review, where names are not clear; repeatable."),
    ] = None,
    keep: Annotated[
        str, typer.Option("--keep", metavar="COLUMNS", help="Columns of the data in the output: all, none, or id,text.")
    ] = "all",
    top: Annotated[
        int | None, typer.Option("--top", metavar="NUMBER", help="The likeliest K classes instead of the probability of each.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="NUMBER", min=1, help="Rows of one call of the model.")] = 32,
    overwrite: OverwriteFile = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Without -o: JSON lines instead of CSV on stdout; with -o: a summary as JSON.")
    ] = False,
    traceback: TracebackFlag = False,
) -> None:
    """Answer new rows with a finished student (or its teacher): label, probabilities, tags, spans, numbers or vectors."""
    from potstill.data.places import check_place
    from potstill.flows.folder import check_answers_rows
    from potstill.flows.prediction_files import check_output

    if output is not None:
        check_output(output, overwrite=overwrite, data=Path(data))
    check_answers_rows(folder)
    check_place(data)
    quiet_libraries()
    from potstill.flows.prediction import Asked, Prediction

    asked = Asked(data, model, runtime, task, split, _columns(columns or []), keep, top, batch_size)
    prediction = Prediction(folder, asked)
    for note in prediction.notes:
        typer.echo(f"note: {note}", err=True)
    if output is None:
        _to_stdout(prediction, as_json)
        return
    from potstill.flows.prediction_files import written_whole

    with _progress() as on_rows, written_whole(output) as writer:
        rows = prediction.write(writer, on_rows)
    about = {"file": str(output), "rows": rows, "task": prediction.task.name, "model": model, "served_as": prediction.served_as}
    if as_json:
        print_json({**about, "notes": prediction.notes})
    else:
        typer.echo(f"{output}: {rows:,} {'row' if rows == 1 else 'rows'}, {model} as {prediction.served_as}")


def _columns(given: list[str]) -> dict[str, str]:
    from potstill.errors import RecipeError

    found = {}
    for one in given:
        role, equals, name = one.partition("=")
        if not equals or not role.strip() or not name.strip():
            raise RecipeError(f"--column {one!r} has no ROLE=NAME", "for example text=review", "write --column text=review")
        found[role.strip()] = name.strip()
    return found


def _to_stdout(prediction: Prediction, as_json: bool) -> None:
    from potstill.flows.prediction_files import CsvWriter, JsonLinesWriter

    stream: Any = sys.stdout.buffer
    writer = JsonLinesWriter(stream) if as_json else CsvWriter(stream)
    try:
        prediction.write(writer)
        writer.close()
        stream.flush()
    except BrokenPipeError:  # the reader, such as head, has all that it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar of rows on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task("rows", total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total)


def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Output folders of `potstill distill`, the reference first.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="HTML page to write.")] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="NAME", help="torch, onnx, int8 …; without it, what each run chose.")
    ] = None,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="Compare figures of runs with other test rows, without pairing.")
    ] = False,
    overwrite: OverwriteFile = False,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Compare finished runs on the same test rows: quality with paired intervals, size, speed, settings that differ."""
    from potstill.flows.folder import check_answers_rows
    from potstill.ground.disk import check_new_file, write_new_text

    if output is not None:
        check_new_file(output, overwrite=overwrite)
    for folder in folders:
        check_answers_rows(folder)
    quiet_libraries()
    from potstill.flows.comparison import compare as compare_runs
    from potstill.report.comparison import comparison_page

    found = compare_runs(folders, runtime=runtime, paired=not unpaired)
    if output is not None:
        write_new_text(output, comparison_page(found), overwrite=overwrite)
    if as_json:
        print_json(found.as_dict())
        return
    from rich.console import Console

    console = Console()
    for table in found.as_tables():
        console.print(table)
    if output is not None:
        console.print(f"Page: {output}", highlight=False, soft_wrap=True)


def export(
    folder: RunFolder,
    to: Annotated[
        str, typer.Option("--to", metavar="NAME", help="onnx, openvino, int8, fp16, dynamic, static, or one way by its name.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make an export again that was added before.")] = False,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Add an export to a finished run: made from out/student, checked, chosen and measured as the run's own."""
    from potstill.flows.folder import check_answers_rows

    check_answers_rows(folder)
    quiet_libraries()
    from potstill.flows.further_export import add_export

    added = add_export(folder, to, overwrite=overwrite)
    if as_json:
        print_json({"folder": str(folder), "added": dict(added.measured), "notes": list(added.notes)})
        return
    from rich.console import Console

    from potstill.report.table import summary_table

    console = Console()
    console.print(summary_table(added.metrics))
    for note in added.notes:
        console.print(note, highlight=False, soft_wrap=True)
    console.print(f"Added: {folder / added.measured['file']}", highlight=False, soft_wrap=True)
