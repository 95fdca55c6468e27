"""Arguments and flags of the commands, as annotations of their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.contracts.target import TARGETS

RecipeFile = Annotated[Path | None, typer.Argument(help="A YAML recipe; flags are laid over it.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(help="Output folder of `potstill distill`.")]
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
