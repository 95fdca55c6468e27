"""Commands on a finished output folder: measure the student again, write the report again."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from potstill.answers.fidelity import retention
from potstill.answers.judges import judge_of
from potstill.data.splits import load_rows
from potstill.data.task_rows import of_task, to_task
from potstill.errors import OutputError, RecipeError
from potstill.evaluate.quality import Predictions, predict
from potstill.exports.delivery import kept_in, plain_in
from potstill.exports.runtimes import TorchRunner
from potstill.ground.devices import compute_device, placed
from potstill.recipe import make_recipe, read_file
from potstill.report.metrics import Metrics
from potstill.stages.context import Run
from potstill.stages.evaluate import render_report
from potstill.stages.observer import LoggingObserver
from potstill.stages.row_forms import formed
from potstill.stages.several_tasks import joint_answers, own_answers
from potstill.stages.student import load_student
from potstill.stages.task_run import task_run
from potstill.targets import target_named

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.table import Table

    from potstill.contracts.runner import Runner


def reevaluate(folder: str | Path, *, data: str | None = None, task: str | None = None) -> dict[str, Any]:
    """Measure teacher and student of a finished run, on its own test split or on other labelled data.

    Args:
        folder: The output folder.
        data: A source with labels that the student knows; its test split where it has one, else all rows.
        task: Of a student of several tasks, the one whose rows `data` has.

    Returns:
        Model → quality, and for students agreement, retention, WDSR and mean KL to the teacher.

    Raises:
        OutputError: The folder holds no finished run.
        DataError: The data cannot be used.
        RecipeError: It is not said which of several tasks the data are for, or there is no such task.
    """
    run = open_run(folder)
    number = task_number(run, data, task)
    student, processor = load_student(run, run.folder / "student")
    with TemporaryDirectory(prefix="potstill-evaluate-") as place:
        limit = run.recipe.data.max_tokens
        if data is None:
            rows, ours = run.split("test"), run.student_rows("test")
        else:
            rows = _read(run, data, number)
            ours = run.task.encode(rows, processor, Path(place) / "student", max_tokens=limit)
        teacher = _of_teacher(run, None if data is None else rows, number, Path(place) / "teacher")
        judge, metric = judge_of(run.task), run.task.metric_for(teacher.labels)
        quality = _quality(run, teacher, teacher, rows)
        models: dict[str, dict[str, Any]] = {"teacher": {"quality": quality}}
        for name, runner in _served(run, student).items():
            answers = predict(runner, ours, run.task.collator(processor))
            found = _quality(run, answers, teacher, rows)
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


def task_number(run: Run, data: str | None, task: str | None) -> int | None:
    """Which of several tasks data belong to; None for the run's own rows, or where there is one task.

    Raises:
        RecipeError: It is not said, there is no such task, or there is one task and a name is given.
    """
    names = list(run.recipe.tasks)
    if task is not None and task not in names:
        accepted = ", ".join(names) or "none: this student has one task"
        raise RecipeError(f"there is no task {task!r}", accepted, "name one of them" if names else "leave the task out")
    if names and data is not None and task is None:
        raise RecipeError("it is not said rows of which task the data are", ", ".join(names), "add --task with one of them")
    return None if data is None or task is None else names.index(task)


def _read(run: Run, data: str, number: int | None) -> Dataset:
    """Other data as this run's rows."""
    one = run if number is None else task_run(run, number)
    rows = load_rows(data, task=one.task, label_names=one.label_names, columns=one.recipe.data.columns)
    rows = formed(one, {"test": rows}, run.teacher.processor)[0]["test"]
    return rows if number is None else to_task(rows, number, task_run(run, number).block[0])


def _of_teacher(run: Run, rows: Dataset | None, number: int | None, place: Path) -> Predictions:
    """What the teacher answers to rows, or to the test split; of several tasks each row's own."""
    limit = run.recipe.data.max_tokens
    if run.recipe.tasks and rows is None:
        return joint_answers(run, "test")
    if rows is not None and number is not None:
        one = task_run(run, number)
        own = one.task.encode(of_task(rows, number, one.block[0]), one.teacher.processor, place, max_tokens=limit)
        return own_answers(one, own, len(run.label_names))
    theirs = run.teacher_rows("test") if rows is None else run.task.encode(rows, run.teacher.processor, place, max_tokens=limit)
    with placed(run.teacher.model) as model:
        return predict(TorchRunner(model), theirs, run.task.collator(run.teacher.processor))


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
    folder, facts, device = run.folder / "export", run.facts("export"), target_named(run.recipe.target).usable_device
    runners: dict[str, Runner] = {"student": TorchRunner(student.to(compute_device()))}
    for kept in (plain_in(facts), *kept_in(facts).values()):
        runners[kept.model_name] = kept.open(folder, device=device)
    return runners
