"""Several tasks in one run: each with a teacher and rows of its own, one student with a block of classes for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import concatenate_datasets

from potstill.answers.class_ranges import FLOOR
from potstill.data.splits import Splits
from potstill.data.task_rows import blocks_of, join_tasks
from potstill.evaluate.quality import Predictions, predict
from potstill.exports.runtimes import TorchRunner
from potstill.ground.devices import placed
from potstill.knowledge.per_task import PerTaskTeacher
from potstill.planning.check import check_method
from potstill.stages.row_forms import formed
from potstill.stages.rows import SPLITS, augmented_rows, check_answers, load_splits, more_rows, write_augmented, write_rows
from potstill.stages.several_teachers import answers_of_teacher, read_and_ask, read_and_teach
from potstill.stages.stage import Stage
from potstill.stages.task_run import TaskRun, places_of, task_run, task_runs, told_of
from potstill.stages.teach import cache_answers, teach, wants_cache
from potstill.stages.user_inputs import content_of, load_given, wants_training

if TYPE_CHECKING:
    from potstill.contracts.source import TeacherSource
    from potstill.data.encoded import EncodedRows
    from potstill.recipe import Recipe
    from potstill.stages.context import Run

OF_DATA = ("model", "from_scratch", "trust_remote_code")


def with_tasks(recipe: Recipe, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages of a run with several tasks, made out of those of a run with one.

    Args:
        recipe: The recipe, with tasks.
        stages: The stages of every run, in order.
    """
    names = list(recipe.tasks)
    reads = [f"tasks.{name}.{key}" for name in names for key in ("data", *(f"teacher.{key}" for key in OF_DATA))]
    changes: dict[str, dict[str, Any]] = {
        "data": {"work": read_tasks, "reads": ("data", "task", "seed", *reads)},
        "teach": {"work": _teach_first, "is_needed": _teaches_first},
        "augment": {"work": augment_tasks},
        "cache": {"work": _cache_first},
    }
    taught = [_taught(name, number) for number, name in enumerate(names) if number]
    asked = [_asked(name, number) for number, name in enumerate(names) if number]
    after = {"teach": taught, "cache": asked}
    needs = {"augment": taught, "student": taught, "distill": asked}
    found: list[Stage] = []
    for stage in stages:
        depends_on = (*stage.depends_on, *(one.name for one in needs.get(stage.name, [])))
        found += [replace(stage, depends_on=depends_on, **changes.get(stage.name, {})), *after.get(stage.name, [])]
    return tuple(found)


def _taught(name: str, number: int) -> Stage:
    return Stage(
        name=f"teach-{name}",
        title=f"read with the teacher of {name}, and train its head where it is new",
        folder=f"work/tasks/{name}",
        reads=(f"tasks.{name}.teacher", "data.max_tokens", "seed", "precision"),
        depends_on=("data",),
        work=partial(teach_task, number=number),
        given=lambda run: content_of(run.recipe.tasks[name].teacher.model),
    )


def _asked(name: str, number: int) -> Stage:
    return Stage(
        name=f"cache-{name}",
        title=f"keep the answers of the teacher of {name}",
        folder=f"work/answers/{name}",
        reads=("data.max_tokens",),
        depends_on=("data", "augment", f"teach-{name}"),
        work=partial(ask_task, number=number),
        given=wants_cache,
    )


def read_tasks(run: Run, folder: Path) -> Sequence[str]:
    """Load the data of every task, join them, and encode them in the first teacher's tokens.

    Raises:
        PotstillError: What is wrong with the data or the teacher of a task; names the task.
    """
    check_answers(run)
    first = load_given(task_run(run, 0), None).processor
    parts = {}
    for one in task_runs(run):
        with told_of(one.name):
            parts[one.name] = _part(one, first)
    joined = join_tasks(parts)
    run.know_labels(joined.label_names)
    shown = (f"{task}: classes {start} to {stop - 1}" for task, (start, stop) in blocks_of(joined.label_names).items())
    return write_rows(run, folder, replace(joined, notes=(*joined.notes, *shown)), first)


def _part(one: TaskRun, processor: Any) -> Splits:
    """A task's rows as they are encoded; they fit its teacher."""
    splits = load_splits(one)
    teacher = load_given(one, splits.label_names)
    check_method(one.recipe, teacher.model)
    rows = {name: part for name in SPLITS if (part := getattr(splits, name)) is not None}
    present, notes = formed(one, rows, processor)
    return replace(splits, notes=(*splits.notes, *teacher.notes, *notes), **present)


def teach_task(run: Run, folder: Path, *, number: int) -> Sequence[str]:
    """Encode the rows of a further task in its teacher's tokens, and train that teacher where its head is new."""
    name = list(run.recipe.tasks)[number]
    one = TaskRun(run, number, places_of(name, taught=folder.relative_to(run.folder).as_posix()))
    with told_of(name):
        return _named(name, read_and_teach(one, folder))


def ask_task(run: Run, folder: Path, *, number: int) -> Sequence[str]:
    """Encode the augmented rows of a further task in its teacher's tokens, and keep its answers where they are cached."""
    name = list(run.recipe.tasks)[number]
    return read_and_ask(TaskRun(run, number, places_of(name, asked=folder.relative_to(run.folder).as_posix())), folder)


def augment_tasks(run: Run, folder: Path) -> Sequence[str]:
    """Make rows out of the training rows of every task, each task's share by its share of the training rows."""
    num_train = len(run.split("train"))
    num = augmented_rows(run, num_train)
    made = []
    for one in task_runs(run):
        train = one.split("train")
        with told_of(one.name):
            made.append(more_rows(one, train, max(1, num * len(train) // num_train)))
    return write_augmented(run, folder, concatenate_datasets(made), num_train)


def of_own_teachers(run: Run) -> TeacherSource:
    """What every row's own teacher says, from its cached answers or live on its own tokens."""
    return PerTaskTeacher({one.block: answers_of_teacher(one) for one in task_runs(run)})


def joint_answers(run: Run, split: str) -> Predictions:
    """What every row's own teacher answers on a split, in the order of the rows."""
    parts = [own_answers(one, one.teacher_rows(split), len(run.label_names)) for one in task_runs(run) if one.has(split)]
    logits, labels, row_ids = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("logits", "labels", "row_ids")
    )
    return Predictions(logits, labels, row_ids)


def own_answers(one: TaskRun, rows: EncodedRows, num_classes: int) -> Predictions:
    """What a task's teacher answers, at the places of its classes; other classes cannot be chosen.

    Args:
        one: The run as that teacher sees it.
        rows: Rows in its tokens, labelled with its classes.
        num_classes: Of all tasks.
    """
    teacher, (start, stop) = one.teacher, one.block
    with placed(teacher.model) as model:
        found = predict(TorchRunner(model), rows, one.task.collator(teacher.processor))
    logits = np.full((len(found.logits), num_classes), FLOOR, np.float32)
    logits[:, start:stop] = found.logits
    return Predictions(logits, np.where(found.labels < 0, found.labels, found.labels + start), found.row_ids)


def _teach_first(run: Run, folder: Path) -> Sequence[str]:
    one = task_run(run, 0)
    with told_of(one.name):
        return _named(one.name, teach(one, folder))


def _teaches_first(run: Run) -> bool:
    return wants_training(task_run(run, 0))


def _cache_first(run: Run, folder: Path) -> Sequence[str]:
    return cache_answers(task_run(run, 0), folder, keeps_states=False)


def _named(name: str, notes: Sequence[str]) -> list[str]:
    return [note.replace("teacher:", f"teacher of {name}:") for note in notes]
