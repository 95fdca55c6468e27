"""The command line: reads arguments into a recipe, runs the pipeline, prints the result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potstill.contracts.target import TARGETS

if TYPE_CHECKING:
    from rich.table import Table

    from potstill.flows import DistillationPipeline
    from potstill.recipe import Recipe

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
HOMES = {"student": "student_arch", "teacher": "teacher_model"}  # flag → recipe key, where they differ
NO_KEYS = ("recipe", "settings", "overwrite", "as_json", "traceback")  # parameters that are no keys of a recipe

app = typer.Typer(
    name="potstill",
    help="A big model and a data file in; a small, fast, measured model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeFile = Annotated[Path | None, typer.Argument(help="A YAML recipe; flags are laid over it.", show_default=False)]
TeacherFlag = Annotated[str | None, typer.Option("--teacher", help="Folder or hub id of the teacher.")]
DataFlag = Annotated[str | None, typer.Option("--data", help="File, folder or hub id of the labelled data.")]
RatioFlag = Annotated[
    float | None, typer.Option("--ratio", help="Share of parameters to remove: 0, or 0.10 to 0.95.  [default: 0.9]")
]
TargetFlag = Annotated[
    str | None, typer.Option("--target", help=f"Hardware that will serve the student: {' or '.join(TARGETS)}.  [default: cpu]")
]
TaskFlag = Annotated[
    str | None,
    typer.Option("--task", help="text-classification, image-classification, multi-label, regression …  [default: auto]"),
]
StudentFlag = Annotated[
    str | None,
    typer.Option("--student", help="bilstm, textcnn, static, cnn, or a ready model or config, instead of a cut teacher."),
]
PlainFlag = Annotated[
    bool | None, typer.Option("--plain", help="A student of a type that transformers has, in uniform shapes.", show_default=False)
]
OutputFlag = Annotated[str | None, typer.Option("--output", "-o", help="Folder that receives everything.  [default: out]")]
MethodFlag = Annotated[str | None, typer.Option("--method", help="Distillation method; see `potstill methods`.  [default: auto]")]
EpochsFlag = Annotated[float | None, typer.Option("--epochs", help="Passes over the training rows.")]
UnlabelledFlag = Annotated[str | None, typer.Option("--unlabelled", help="Rows without labels for the teacher to label.")]
QuantizeFlag = Annotated[
    str | None, typer.Option("--quantize", help="auto, none, dynamic, static, int8, fp16 or openvino.  [default: auto]")
]
BaselineFlag = Annotated[
    bool | None, typer.Option("--baseline/--no-baseline", help="Also train the student without distillation.")
]
SeedFlag = Annotated[int | None, typer.Option("--seed", help="Seed of splits, initialisation and batch order.  [default: 0]")]
StoreFlag = Annotated[str | None, typer.Option("--store", help="Folder where runs share rows, teachers and their answers.")]
SetFlag = Annotated[
    list[str] | None, typer.Option("--set", help="Any recipe key, for example --set distill.epochs=5; repeatable.")
]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace an output folder that another recipe has filled.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
TracebackFlag = Annotated[bool, typer.Option("--traceback", help="Show the whole traceback of an error.")]


@app.command()
def distill(
    context: typer.Context,
    recipe: RecipeFile = None,
    teacher: TeacherFlag = None,
    data: DataFlag = None,
    ratio: RatioFlag = None,
    target: TargetFlag = None,
    output: OutputFlag = None,
    task: TaskFlag = None,
    student: StudentFlag = None,
    plain: PlainFlag = None,
    method: MethodFlag = None,
    epochs: EpochsFlag = None,
    unlabelled: UnlabelledFlag = None,
    quantize: QuantizeFlag = None,
    baseline: BaselineFlag = None,
    seed: SeedFlag = None,
    store: StoreFlag = None,
    settings: SetFlag = None,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Teacher and data in; distilled, quantized, exported and measured student out."""
    _run(_recipe(context.params), overwrite=overwrite, as_json=as_json)


@app.command()
def plan(
    context: typer.Context,
    recipe: RecipeFile = None,
    teacher: TeacherFlag = None,
    data: DataFlag = None,
    ratio: RatioFlag = None,
    task: TaskFlag = None,
    student: StudentFlag = None,
    plain: PlainFlag = None,
    settings: SetFlag = None,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Show what would be built: architecture, parameters, FLOPs, bytes, cache size, time. Trains nothing."""
    from potstill.flows.preview import preview

    _quiet_libraries()
    result = preview(_recipe(context.params))
    _show(as_json, result.as_dict(), result.as_table)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Output folder of `potstill distill`.")],
    data: DataFlag = None,
    task: Annotated[str | None, typer.Option("--task", help="Of several tasks, the one whose rows --data has.")] = None,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Measure a finished student again, on its own test split or on other data."""
    from potstill.flows.reevaluate import as_table, reevaluate

    _quiet_libraries()
    figures = reevaluate(folder, data=data, task=task)
    _show(as_json, figures, lambda: as_table(figures))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Output folder of `potstill distill`.")],
    traceback: TracebackFlag = False,
) -> None:
    """Write the report again from the figures in the output folder, and say where it lies."""
    from potstill.flows.reevaluate import rewrite_report

    _quiet_libraries()
    typer.echo(rewrite_report(folder))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives everything.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything drawn.")] = 0,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """One whole distillation on scikit-learn's scanned digits: train a teacher, cut it to a tenth, distil, measure."""
    from potstill.demo import prepare_demo
    from potstill.recipe import make_recipe

    settings = prepare_demo(output, seed=seed)
    _run(make_recipe(settings), overwrite=overwrite, as_json=as_json)


@app.command()
def doctor(as_json: JsonFlag = False) -> None:
    """Show versions, hardware, and what is missing."""
    from potstill.doctor import examine

    findings = examine()
    _show(as_json, findings.as_dict(), findings.as_table)
    if findings.missing:
        raise typer.Exit(1)


@app.command()
def schema(
    metrics: Annotated[bool, typer.Option("--metrics", help="The schema of metrics.json instead of a recipe's.")] = False,
) -> None:
    """Print the JSON schema of a recipe, so that editors complete and check it."""
    if metrics:
        from potstill.report.metrics import metrics_schema

        _print_json(metrics_schema())
        return
    from potstill.recipe import recipe_schema

    _print_json(recipe_schema())


@app.command()
def losses(as_json: JsonFlag = False) -> None:
    """List the losses: kind, what they need, defaults and source."""
    from potstill.losses.catalogue import describe

    _show(as_json, describe(), lambda: _table("losses", describe()))


@app.command()
def methods(as_json: JsonFlag = False) -> None:
    """List the distillation methods: what they do, the losses that they combine, and their source."""
    from potstill.methods.catalogue import describe

    _show(as_json, describe(), lambda: _table("methods", describe()))


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from potstill import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: errors become one line and exit code 2, an interruption says how to go on."""
    from potstill.errors import PotstillError
    from potstill.ground.hardware import set_thread_policy

    set_thread_policy()
    code = 0
    try:
        code = app(standalone_mode=False) or 0
    except PotstillError as error:
        if "--traceback" in sys.argv:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_USER_ERROR)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            typer.echo(f"error: {error.format_message()}", err=True)
            sys.exit(EXIT_USER_ERROR)
        raise
    if code == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this code
        typer.echo("Interrupted. What was finished is kept; run the same command again to go on from there.", err=True)
    if code:
        sys.exit(code)


def _recipe(given: Mapping[str, Any]) -> Recipe:
    """The recipe of a command: its file, the flags that were given, and its settings, later ones laid over earlier ones."""
    from potstill.recipe import make_recipe, parse_settings, read_file

    parts = [read_file(given["recipe"])] if given["recipe"] is not None else []
    flags = {HOMES.get(name, name): value for name, value in given.items() if name not in NO_KEYS and value is not None}
    return make_recipe(*parts, flags, parse_settings(given["settings"] or []))


def _run(recipe: Recipe, *, overwrite: bool, as_json: bool) -> None:
    from potstill.console import ConsoleObserver, warnings_shown_by
    from potstill.flows import DistillationPipeline
    from potstill.ground import ranks

    _quiet_libraries()
    pipeline: DistillationPipeline = DistillationPipeline.from_recipe(recipe)
    if not ranks.is_first():
        pipeline.run(overwrite=overwrite)
        return
    with ConsoleObserver(num_stages=len(pipeline.stages)) as observer, warnings_shown_by(observer.warn):
        metrics = pipeline.run(observer=observer, overwrite=overwrite)
    if as_json:
        typer.echo(metrics.model_dump_json(indent=2))
        return
    from rich.console import Console

    from potstill.report.table import summary_table

    console = Console()
    console.print(summary_table(metrics))
    console.print(f"Report:  {Path(recipe.output) / 'report' / 'index.html'}", highlight=False, soft_wrap=True)
    console.print(f"Student: {Path(recipe.output) / 'student'}", highlight=False, soft_wrap=True)


def _quiet_libraries() -> None:
    """Progress belongs to the bars drawn here; the libraries' own are switched off for this process."""
    import logging
    import warnings

    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("nncf").setLevel(logging.ERROR)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _show(as_json: bool, value: Any, make_table: Callable[[], Any]) -> None:
    if as_json:
        _print_json(value)
        return
    from rich.console import Console

    Console().print(make_table())


def _table(title: str, rows: list[dict[str, str]]) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    return table


if __name__ == "__main__":
    main()
