"""Commands on a finished output folder: measure the student again, write the report again."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from potstill.compress.quantize.candidates import open_runner
from potstill.data.splits import load_rows
from potstill.devices import compute_device, placed
from potstill.errors import OutputError
from potstill.evaluate.fidelity import retention
from potstill.evaluate.judges import judge_of
from potstill.evaluate.quality import Predictions, predict
from potstill.export.runtimes import OnnxRunner, Runner, TorchRunner
from potstill.pipeline.context import Run
from potstill.pipeline.measure_stages import render_report
from potstill.pipeline.observer import LoggingObserver
from potstill.pipeline.row_forms import formed
from potstill.pipeline.student_stages import load_student
from potstill.recipe import make_recipe, read_file
from potstill.report.metrics import Metrics

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.table import Table


def reevaluate(folder: str | Path, *, data: str | None = None) -> dict[str, Any]:
    """Measure teacher and student of a finished run, on its own test split or on other labelled data.

    Args:
        folder: The output folder.
        data: A source with labels that the student knows; its test split where it has one, else all rows.

    Returns:
        Model → quality, and for students agreement, retention, WDSR and mean KL to the teacher.

    Raises:
        OutputError: The folder holds no finished run.
        DataError: The data cannot be used.
    """
    run = open_run(folder)
    student, processor = load_student(run, run.folder / "student")
    with TemporaryDirectory(prefix="potstill-evaluate-") as place:
        if data is None:
            ours, theirs = run.student_rows("test"), run.teacher_rows("test")
        else:
            rows = load_rows(data, task=run.task, label_names=run.label_names, columns=run.recipe.data.columns)
            rows = formed(run, {"test": rows}, run.teacher.processor)[0]["test"]
            limit = run.recipe.data.max_tokens
            ours = run.task.encode(rows, processor, Path(place) / "student", max_tokens=limit)
            theirs = run.task.encode(rows, run.teacher.processor, Path(place) / "teacher", max_tokens=limit)
        with placed(run.teacher.model) as model:
            teacher = predict(TorchRunner(model), theirs, run.task.collator(run.teacher.processor))
        judge, metric = judge_of(run.task), run.task.metric_for(teacher.labels)
        judged = rows if data is not None else run.split("test")
        quality = _quality(run, teacher, teacher, judged)
        models: dict[str, dict[str, Any]] = {"teacher": {"quality": quality}}
        for name, runner in _served(run, student).items():
            answers = predict(runner, ours, run.task.collator(processor))
            found = _quality(run, answers, teacher, judged)
            close = judge.closeness(answers, teacher)
            models[name] = {
                "quality": found,
                "retention": retention(found[metric], quality[metric]),
                "agreement": close.agreement,
                "wdsr": close.wdsr,
                "mean_kl_nats": close.mean_kl_nats,
                **close.others,
            }
        about = {"task": run.task.name, "metric": metric, "rows": len(ours), "data": data or "test split"}
        return {**about, "models": models}


def _quality(run: Run, answers: Predictions, teacher: Predictions, rows: Dataset) -> dict[str, float]:
    found = run.task.quality(answers.logits, answers.labels, teacher=teacher.logits)
    by_text = getattr(run.task, "text_quality", None)
    return found if by_text is None else found | by_text(answers, rows)


def as_table(figures: dict[str, Any]) -> Table:
    """The figures of `reevaluate` for the terminal."""
    from rich.table import Table

    title = f"{figures['rows']} rows of {figures['data']}"
    table = Table("model", figures["metric"], "kept", "agreement", "WDSR", "mean KL", title=title)
    for name, model in figures["models"].items():
        rest = [model.get(key) for key in ("retention", "agreement", "wdsr", "mean_kl_nats")]
        shown = ["" if value is None else f"{value:.4f}" for value in rest]
        table.add_row(name, f"{model['quality'][figures['metric']]:.4f}", *shown)
    return table


def rewrite_report(folder: str | Path) -> Path:
    """Write page, TensorBoard files and model card again from the figures; returns the page.

    Raises:
        OutputError: There are no figures.
    """
    folder = Path(folder)
    metrics = Metrics.read(folder / "report" / "metrics.json")
    render_report(folder, folder / "report", metrics)
    return folder / "report" / "index.html"


def open_run(folder: str | Path) -> Run:
    """A finished output folder as a run.

    Raises:
        OutputError: It is none.
    """
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file() or not (folder / "student" / "config.json").is_file():
        raise OutputError(
            f"{folder} holds no finished run", "the output folder of potstill distill", "run potstill distill -o there first"
        )
    recipe = make_recipe(read_file(folder / "recipe.yaml"), {"output": str(folder)})
    return Run(recipe, folder, LoggingObserver())


def _served(run: Run, student: Any) -> dict[str, Runner]:
    """Every way in which the student is kept."""
    facts = run.facts("export")
    runners: dict[str, Runner] = {"student": TorchRunner(student.to(compute_device()))}
    runners["student onnx"] = OnnxRunner(run.folder / "export" / "model.onnx", precision="fp32")
    for key in ("served", "int8"):
        kept = facts.get(key)
        if kept is not None and kept["file"] != "model.onnx":
            runners[f"student-{kept['precision']}"] = open_runner(
                kept["runtime"], run.folder / "export" / kept["file"], precision=kept["precision"], threads=kept["threads"]
            )
    return runners
