"""A run with several tasks as one task's teacher sees it, and the teacher that their student is cut out of."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from potstill.data.encoded import EncodedRows, concatenate
from potstill.data.task_rows import SEPARATOR, blocks_of, of_task, rows_of
from potstill.errors import PotstillError, RecipeError
from potstill.ground.devices import compute_device, placed
from potstill.knowledge.live import LiveTeacher
from potstill.knowledge.per_task import widen_head
from potstill.models.labels import final_linear, name_classes
from potstill.recipe.model import DataRecipe, TeacherRecipe
from potstill.stages.context import Given, Places, Run
from potstill.students.cut import NEW_HEAD_RIDGE, regress
from potstill.tasks.contract import Task
from potstill.tasks.several_tasks import of_several

if TYPE_CHECKING:
    from potstill.models.load import LoadedTeacher

FITTED_ROWS, FITTED_BATCH = 512, 32  # of each task, for the first weights of its classes


class TaskRun(Run):
    """The run as the teacher of one task sees it: rows, labels, tokens and answers of this task alone.

    The first task's rows lie among those of all tasks, in its teacher's tokens; a further task's in folders of their own.

    Args:
        joint: The run of all tasks.
        number: Which task, from 0.
        places: Where its teacher and rows lie; None where its stages leave them.
    """

    def __init__(self, joint: Run, number: int, places: Places | None = None) -> None:
        self.number, self.name = number, list(joint.recipe.tasks)[number]
        one, given = joint.recipe.tasks[self.name], joint.given_tasks.get(self.name, Given())
        data = DataRecipe(**{**joint.recipe.data.model_dump(), **one.data.model_dump()})
        changes: dict[str, Any] = {"teacher": TeacherRecipe(**one.teacher.model_dump()), "data": data, "tasks": {}}
        super().__init__(
            joint.recipe.model_copy(update=changes),
            joint.folder,
            joint.observer,
            given_teacher=given.teacher,
            given_processor=given.processor,
            given_data=given.data,
            places=places or (joint.places if number == 0 else places_of(self.name)),
        )
        self.results = joint.results

    @property
    def block(self) -> tuple[int, int]:
        """Where the classes of this task start and stop among those of all tasks."""
        return blocks_of(super().label_names)[self.name]

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels as the task's own data have them."""
        return tuple(name.partition(SEPARATOR)[2] for name in super().label_names[slice(*self.block)])

    def split(self, name: str) -> Dataset:
        """This task's rows of a split, labelled with its own classes."""
        return self._once(f"own {name}", "work", lambda: of_task(super(TaskRun, self).split(name), self.number, self.block[0]))

    def has(self, name: str) -> bool:
        """Whether this task has such rows."""
        return super().has(name) and len(self.split(name)) > 0

    def teacher_rows(self, *names: str) -> EncodedRows:
        """This task's rows in its teacher's tokens."""
        if self.number > 0:
            return super().teacher_rows(*names)
        return concatenate([rows_of(super(TaskRun, self).teacher_rows(name), self.number) for name in names])


def places_of(name: str, *, taught: str | None = None, asked: str | None = None) -> Places:
    """Where the rows, the teacher and the answers of a further task lie, below the output folder.

    Args:
        name: Of the task.
        taught: Folder of its first stage while that runs.
        asked: Folder of its second stage while that runs.
    """
    first, second = taught or f"work/tasks/{name}", asked or f"work/answers/{name}"
    return Places(teacher=f"{first}/model", encoded=f"{first}/encoded", augmented=f"{second}/augmented", cache=second)


def task_run(run: Run, number: int) -> TaskRun:
    """The run as one task's teacher sees it, once for each."""
    name = list(run.recipe.tasks)[number]
    found: TaskRun = run._once(f"task {name}", "teacher" if number == 0 else f"work/tasks/{name}", lambda: TaskRun(run, number))
    return found


def task_runs(run: Run) -> list[TaskRun]:
    """The run as each task's teacher sees it, in the order of the recipe."""
    return [task_run(run, number) for number in range(len(run.recipe.tasks))]


@contextmanager
def told_of(name: str) -> Iterator[None]:
    """Errors inside say which task they are about."""
    try:
        yield
    except PotstillError as error:
        if not getattr(error, "given", None) or error.given.startswith("task "):
            raise
        raise type(error)(f"task {name!r}: {error.given}", error.accepted, error.todo) from error


def joint_task(run: Run) -> Task:
    """The task whose rows belong to several tasks of one kind.

    Raises:
        RecipeError: Tasks of different kinds, or of a kind without one class for each row.
    """
    kinds = {}
    for one in task_runs(run):
        with told_of(one.name):
            kinds[one.name] = one.task
    names = {name: task.name for name, task in kinds.items()}
    if len(set(names.values())) > 1:
        raise RecipeError(
            f"the tasks are of different kinds: {', '.join(f'{name} is {kind}' for name, kind in names.items())}",
            "tasks of one kind for one student: all text-classification, or all image-classification",
            "give each kind a recipe of its own",
        )
    return of_several(next(iter(kinds.values())))


def widened_teacher(run: Run) -> LoadedTeacher:
    """The first task's teacher with classes of all tasks: what the student is cut out of.

    Its own classes keep their weights. Those of another task are fitted by least squares, from the features of the first teacher
    to what that task's teacher answers on its training rows. They are drawn towards that teacher's own head where both are models
    of one kind and width, so that teachers which share their body keep their heads as they are; towards zero otherwise.
    """
    first = task_run(run, 0).teacher
    model = copy.deepcopy(first.model)
    widen_head(model, 0, len(run.label_names))
    name_classes(model, run.label_names)
    head = final_linear(model, len(run.label_names))
    for one in task_runs(run)[1:]:
        _fit_block(run, one, model, head)
    return replace(first, model=model)


def _fit_block(run: Run, one: TaskRun, model: nn.Module, head: nn.Linear) -> None:
    rows = rows_of(run.teacher_rows("train"), one.number)
    drawn = np.random.default_rng(run.recipe.seed).permutation(len(rows))[:FITTED_ROWS]
    features = _features(run, model, head, rows.subset(drawn))
    start, stop = one.block
    block = nn.Linear(head.in_features, stop - start, dtype=head.weight.dtype)
    _start_block(block, one.teacher.model, model)
    regress(block, features, _answers(one, rows.row_ids[drawn]), NEW_HEAD_RIDGE)
    with torch.no_grad():
        head.weight[start:stop] = block.weight.to(head.weight)
        if head.bias is not None:
            head.bias[start:stop] = block.bias.to(head.bias)


@torch.no_grad()
def _start_block(block: nn.Linear, teacher: Any, model: Any) -> None:
    """The head of a task's teacher, where its features may be like those of the model; zeros otherwise."""
    own = final_linear(teacher, block.out_features)
    is_alike = teacher.config.model_type == model.config.model_type and own.in_features == block.in_features
    block.weight.copy_(own.weight) if is_alike else block.weight.zero_()
    block.bias.copy_(own.bias) if is_alike and own.bias is not None else block.bias.zero_()


def _features(run: Run, model: nn.Module, head: nn.Linear, rows: EncodedRows) -> Tensor:
    """What goes into the final layer [N, D], in double precision on the CPU."""
    found: list[Tensor] = []
    source = LiveTeacher(model, device=compute_device())  # type: ignore[arg-type]
    collator = run.task.collator(run.teacher.processor)
    handle = head.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].detach().double().cpu()))
    try:
        with placed(model):
            for batch in _batches(rows):
                source.signal(collator(batch))
    finally:
        handle.remove()
    return torch.cat(found)


def _answers(one: TaskRun, row_ids: np.ndarray) -> Tensor:
    """What the task's teacher says of these rows [N, C], in double precision on the CPU."""
    rows = one.teacher_rows("train")
    order = np.argsort(rows.row_ids, kind="stable")
    places = order[np.searchsorted(rows.row_ids[order], row_ids)]
    source, collator = LiveTeacher(one.teacher.model), one.task.collator(one.teacher.processor)
    with placed(one.teacher.model):
        return torch.cat([source.signal(collator(batch)).logits.double().cpu() for batch in _batches(rows.subset(places))])


def _batches(rows: EncodedRows) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), FITTED_BATCH):
        yield rows.__getitems__(range(start, min(start + FITTED_BATCH, len(rows))))
