"""Arguments and flags of the commands, as annotations of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from potstill.contracts.target import TARGETS
from potstill.contracts.task import TASKS, TOKEN_TASKS
from potstill.contracts.way import modes
from potstill.ground.tables import at

TASK_NAMES, MODES = ("auto", *TASKS, *TOKEN_TASKS), modes()
ARCHITECTURES = (
    "bilstm",
    "textcnn",
    "static",
    "cnn",
)  # a test compares them with the table, whose import takes as long as all else


def _completed(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell offers for the beginning of a name."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def _method_names() -> Iterable[str]:
    return ("auto", *at("potstill.methods.catalogue:METHODS"))


def _loss_names() -> Iterable[str]:
    names: Iterable[str] = at("potstill.losses.catalogue:LOSSES")
    return names


RecipeFile = Annotated[
    Path | None, typer.Argument(metavar="[RECIPE]", help="A YAML recipe; flags are laid over it.", show_default=False)
]
RunFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Output folder of `potstill distill`.")]
TeacherFlag = Annotated[str | None, typer.Option("--teacher", metavar="MODEL", help="Folder or hub id of the teacher.")]
DataFlag = Annotated[str | None, typer.Option("--data", metavar="DATA", help="File, folder or hub id of the labelled data.")]
RatioFlag = Annotated[
    str | None,
    typer.Option("--ratio", metavar="SHARE", help="Share of parameters to remove: 0, or 0.10 to 0.95, or 90%.  [default: 0.9]"),
]
TargetFlag = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="|".join(TARGETS),
        help="Hardware that will serve the student.  [default: cpu]",
        autocompletion=_completed(lambda: TARGETS),
    ),
]
TaskFlag = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help=f"What a row means: {', '.join(TASK_NAMES)}.  [default: auto]",
        autocompletion=_completed(lambda: TASK_NAMES),
    ),
]
PlainFlag = Annotated[
    bool | None, typer.Option("--plain", help="A student of a type that transformers has, in uniform shapes.", show_default=False)
]
TrustFlag = Annotated[
    bool | None,
    typer.Option("--trust-code", help="Run code that the recipe names as package.module:name.", show_default=False),
]
StudentFlag = Annotated[
    str | None,
    typer.Option(
        "--student",
        metavar="NAME|MODEL",
        help=f"Instead of a cut teacher: {', '.join(ARCHITECTURES)}, or folder or hub id of a ready model or config.",
        autocompletion=_completed(lambda: ARCHITECTURES),
    ),
]
OutputFlag = Annotated[
    str | None, typer.Option("--output", "-o", metavar="FOLDER", help="Folder that receives everything.  [default: out]")
]
MethodFlag = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        help="Distillation method; `potstill methods` lists them.  [default: auto]",
        autocompletion=_completed(_method_names),
    ),
]
EpochsFlag = Annotated[
    float | None,
    typer.Option("--epochs", metavar="NUMBER", help="Passes over the training rows.  [default: those of the method]"),
]
UnlabelledFlag = Annotated[
    str | None,
    typer.Option("--unlabelled", "--unlabeled", metavar="DATA", help="Rows without labels for the teacher to label."),
]
QuantizeFlag = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        metavar="MODE",
        help=f"What is tried: {', '.join(MODES)}.  [default: auto]",
        autocompletion=_completed(lambda: MODES),
    ),
]
BaselineFlag = Annotated[
    bool | None,
    typer.Option("--baseline/--no-baseline", help="Also train the student without distillation.  [default: no-baseline]"),
]
SeedFlag = Annotated[
    int | None, typer.Option("--seed", metavar="NUMBER", help="Seed of splits, initialisation and batch order.  [default: 0]")
]
StoreFlag = Annotated[
    str | None, typer.Option("--store", metavar="FOLDER", help="Folder where runs share rows, teachers and their answers.")
]
SetFlag = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any recipe key, for example --set distill.epochs=5; repeatable."),
]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace an output folder that another recipe has filled.")]
DryRunFlag = Annotated[
    bool, typer.Option("--dry-run", help="Check everything and show what would be built, as `potstill plan` does; write nothing.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
TracebackFlag = Annotated[bool, typer.Option("--traceback", help="Show the whole traceback of an error.")]
LossName = Annotated[
    str | None,
    typer.Argument(
        metavar="[LOSS]", help="Show everything about this one.", show_default=False, autocompletion=_completed(_loss_names)
    ),
]
MethodName = Annotated[
    str | None,
    typer.Argument(
        metavar="[METHOD]", help="Show everything about this one.", show_default=False, autocompletion=_completed(_method_names)
    ),
]
