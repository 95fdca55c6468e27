"""Commands that read a recipe: distill, plan, and the demo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potstill.cli.parameters import (
    BaselineFlag,
    DataFlag,
    DryRunFlag,
    EpochsFlag,
    JsonFlag,
    MethodFlag,
    OutputFlag,
    OverwriteFlag,
    PlainFlag,
    QuantizeFlag,
    RatioFlag,
    RecipeFile,
    SeedFlag,
    SetFlag,
    StoreFlag,
    StudentFlag,
    TargetFlag,
    TaskFlag,
    TeacherFlag,
    TracebackFlag,
    TrustFlag,
    UnlabelledFlag,
)
from potstill.cli.printing import quiet_libraries, show

if TYPE_CHECKING:
    from potstill.flows import DistillationPipeline
    from potstill.recipe import Recipe

HOMES = {"student": "student_arch", "teacher": "teacher_model"}  # flag → recipe key, where they differ
NO_KEYS = ("recipe", "settings", "overwrite", "dry_run", "as_json", "traceback")  # parameters that are no keys of a recipe


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
    trust_code: TrustFlag = None,
    method: MethodFlag = None,
    epochs: EpochsFlag = None,
    unlabelled: UnlabelledFlag = None,
    quantize: QuantizeFlag = None,
    baseline: BaselineFlag = None,
    seed: SeedFlag = None,
    store: StoreFlag = None,
    settings: SetFlag = None,
    overwrite: OverwriteFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """Teacher and data in; distilled, quantized, exported and measured student out."""
    asked = recipe_of(context.params)
    check_first(asked, overwrite=overwrite)
    if dry_run:
        preview_recipe(asked, as_json=as_json)
    else:
        run_recipe(asked, overwrite=overwrite, as_json=as_json)


def plan(
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
    trust_code: TrustFlag = None,
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
    """Show what would be built: architecture, parameters, FLOPs, bytes, cache size, time. Trains nothing, writes nothing."""
    preview_recipe(recipe_of(context.params), as_json=as_json)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder that receives everything.")] = Path(
        "out/demo"
    ),
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="Seed of everything drawn.")] = 0,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
    traceback: TracebackFlag = False,
) -> None:
    """One whole distillation on scikit-learn's scanned digits: train a teacher, cut it to a tenth, distil, measure."""
    from potstill.demo import prepare_demo
    from potstill.recipe import make_recipe

    quiet_libraries()
    settings = prepare_demo(output, seed=seed)
    run_recipe(make_recipe(settings), overwrite=overwrite, as_json=as_json)


def recipe_of(given: Mapping[str, Any]) -> Recipe:
    """The recipe of a command: its file, the flags that were given, and its settings, later ones laid over earlier ones."""
    from potstill.recipe import make_recipe, parse_settings, read_file

    parts = [read_file(given["recipe"])] if given["recipe"] is not None else []
    flags = {HOMES.get(name, name): value for name, value in given.items() if name not in NO_KEYS and value is not None}
    if "ratio" in flags:
        flags |= parse_settings([f"ratio={flags['ratio']}"])  # a number, or per cent
    return make_recipe(*parts, flags, parse_settings(given["settings"] or []))


def check_first(recipe: Recipe, *, overwrite: bool) -> None:
    """What is wrong with the names and paths of a recipe and its output folder, said before any library of models is imported."""
    from potstill.flows.folder import check_claim
    from potstill.planning.first_check import check_names

    check_names(recipe)
    check_claim(Path(recipe.output), recipe, overwrite=overwrite)


def preview_recipe(recipe: Recipe, *, as_json: bool) -> None:
    """Check everything that can be checked before training, and print what a run would build."""
    from potstill.planning.first_check import check_names

    check_names(recipe)
    from potstill.flows.preview import preview

    quiet_libraries()
    result = preview(recipe)
    show(as_json, result.as_dict(), result.as_table)


def run_recipe(recipe: Recipe, *, overwrite: bool, as_json: bool) -> None:
    """Run a recipe, show its progress, and print its result."""
    from potstill.flows import DistillationPipeline
    from potstill.ground import ranks

    quiet_libraries()
    pipeline: DistillationPipeline = DistillationPipeline.from_recipe(recipe)
    metrics = pipeline.run(observer=True, overwrite=overwrite)
    if not ranks.is_first():
        return
    if as_json:
        typer.echo(metrics.model_dump_json(indent=2))
        return
    from rich.console import Console

    from potstill.report.table import summary_table

    console = Console()
    console.print(summary_table(metrics))
    console.print(f"Report:  {Path(recipe.output) / 'report' / 'index.html'}", highlight=False, soft_wrap=True)
    console.print(f"Student: {Path(recipe.output) / 'student'}", highlight=False, soft_wrap=True)
