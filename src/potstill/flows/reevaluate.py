"""Commands on a finished output folder: measure the student again, write the report again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from potstill.answers.fidelity import retention
from potstill.answers.judging import judged
from potstill.contracts.answers import Predictions
from potstill.data.run_rows import read_facts
from potstill.data.splits import load_rows
from potstill.data.task_rows import of_task, to_task
from potstill.errors import RecipeError
from potstill.evaluate.further_models import joint_answers, own_answers
from potstill.evaluate.quality import predict
from potstill.exports.delivery import kept_in, plain_in
from potstill.exports.runtimes import TorchRunner
from potstill.flows.distill import DistillFlow
from potstill.flows.folder import FINISHED, check_finished, recipe_of_run
from potstill.flows.observer import LoggingObserver
from potstill.ground.counted import counted
from potstill.ground.devices import compute_device, placed
from potstill.models.party import Student, Teacher
from potstill.report.metrics import Metrics
from potstill.stages.report import render_report
from potstill.stages.rows import formed
from potstill.targets import target_named

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.table import Table

    from potstill.contracts.runner import Runner


def reevaluate(folder: str | Path, *, data: str | None = None, task: str | None = None) -> dict[str, Any]:
    """Measure teacher and student of a finished run, on its own test split or on other labelled data.

    Args:
        data: A source with labels that the student knows; its test split where it has one, else all rows.

    Returns:
        Model → quality, and for students agreement, retention, WDSR and mean KL to the teacher.

    Raises:
        OutputError: The folder holds no finished run.
        DataError: The data cannot be used.
        RecipeError: It is not said which of several tasks the data are for, or there is no such task.
    """
    flow = open_run(folder)
    number = task_number(list(flow.recipe.tasks), data, task)
    student, all_rows, limit = flow.student, flow.open(flow.rows), flow.recipe.data.max_tokens
    with TemporaryDirectory(prefix="potstill-evaluate-") as place:
        if data is None:
            rows, ours = all_rows.split("test"), student.encoded("test")
        else:
            rows = _read(flow, data, number)
            ours = all_rows.task.encode(rows, student.processor, Path(place) / "student", max_tokens=limit)
        teacher = _of_teacher(flow, None if data is None else rows, number, Path(place) / "teacher")
        kind, metric = all_rows.answers, all_rows.task.metric_for(teacher.labels)
        quality = judged(kind.judge(), teacher, teacher).quality() | kind.text_quality(teacher, rows)
        models: dict[str, dict[str, Any]] = {"teacher": {"quality": quality}}
        for name, runner in _served(flow, student).items():
            answers = predict(runner, ours, student.collator, kind)
            judge = judged(kind.judge(), answers, teacher)
            found, close = judge.quality() | kind.text_quality(answers, rows), judge.closeness()
            models[name] = {
                "quality": found,
                "retention": retention(found[metric], quality[metric]),
                "agreement": close.agreement,
                "wdsr": close.wdsr,
                "mean_kl_nats": close.mean_kl_nats,
                **close.others,
            }
        about = {"task": all_rows.task.name, "metric": metric, "rows": len(ours), "data": data or "test split"}
        return {**about, "models": models}


def task_number(names: Sequence[str], data: str | None, task: str | None) -> int | None:
    """Which of several tasks data belong to; None for the run's own rows, or where there is one task.

    Raises:
        RecipeError: It is not said, there is no such task, or there is one task and a name is given.
    """
    if task is not None and task not in names:
        accepted = ", ".join(names) or "none: this student has one task"
        raise RecipeError(f"there is no task {task!r}", accepted, "name one of them" if names else "leave the task out")
    if names and data is not None and task is None:
        raise RecipeError("it is not said rows of which task the data are", ", ".join(names), "add --task with one of them")
    return None if data is None or task is None else names.index(task)


def _read(flow: DistillFlow, data: str, number: int | None) -> Dataset:
    """Other data as this run's rows."""
    inputs, own = flow.inputs[number or 0], flow.open(flow.parties[number or 0].rows)
    rows = load_rows(
        data,
        task=own.task,
        label_names=own.label_names,
        columns=inputs.data.columns,
        label_map=inputs.data.label_map,
        use_unlabelled=inputs.data.unlabeled_rows == "use",
    )
    rows = formed(own.task, inputs.data, {"test": rows}, flow.open(flow.teacher).processor)[0]["test"]
    return rows if number is None else to_task(rows, number, own.block[0])


def _of_teacher(flow: DistillFlow, rows: Dataset | None, number: int | None, place: Path) -> Predictions:
    """What the teacher answers to rows, or to the test split; of several tasks each row's own."""
    limit, teachers = flow.recipe.data.max_tokens, [flow.open(party.teacher) for party in flow.parties]
    num_classes = len(flow.open(flow.rows).label_names)
    if flow.recipe.tasks and rows is None:
        return joint_answers(teachers, "test", num_classes)
    teacher: Teacher = teachers[number or 0]
    task = teacher.rows.task
    if rows is not None and number is not None:
        of_one = of_task(rows, number, teacher.rows.block[0])
        return own_answers(teacher, task.encode(of_one, teacher.processor, place, max_tokens=limit), num_classes)
    theirs = teacher.encoded("test") if rows is None else task.encode(rows, teacher.processor, place, max_tokens=limit)
    with placed(teacher.model) as model:
        return predict(TorchRunner(model), theirs, teacher.collator, teacher.rows.answers)


def as_table(figures: dict[str, Any]) -> Table:
    """The figures of `reevaluate` for the terminal."""
    from rich.table import Table

    title = f"{counted(figures['rows'], 'row')} of {figures['data']}"
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


def open_run(folder: str | Path) -> DistillFlow:
    """The flow of a finished output folder, whose results can be opened.

    Raises:
        OutputError: It is none.
    """
    folder = Path(folder)
    check_finished(folder, *FINISHED)
    flow = DistillFlow(recipe_of_run(folder))
    flow.start(folder, LoggingObserver())
    return flow


def _served(flow: DistillFlow, student: Student) -> dict[str, Runner]:
    """Every way in which the student is kept."""
    assert flow.run is not None
    exports = flow.run.folder / "export"
    facts, device = read_facts(exports), target_named(flow.recipe.target).usable_device
    runners: dict[str, Runner] = {"student": TorchRunner(student.model.to(compute_device()))}
    for kept in (plain_in(facts), *kept_in(facts).values()):
        runners[kept.model_name] = kept.open(exports, device=device)
    return runners
