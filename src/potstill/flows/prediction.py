"""Command `predict`: a finished run's answers to new rows, read and written in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from potstill.answers.label_columns import NUMBER_NAMES
from potstill.data.arrow import table_of
from potstill.data.columns import LABEL_NAMES, is_image, named
from potstill.data.sources import Source, read_source
from potstill.errors import DataError, RecipeError
from potstill.exports.runtimes import TorchRunner
from potstill.flows.answering import Answering
from potstill.flows.finished import FinishedRun
from potstill.flows.prediction_files import Writer
from potstill.ground.devices import compute_device

PART_ROWS = 4_096
ANSWER, CHANCES = "prediction", "probabilities"
ALL, NONE = "all", "none"
SPLIT = "new"
STUDENT, TEACHER = "student", "teacher"


@dataclass(frozen=True)
class Asked:
    """What a prediction is asked for.

    Args:
        data: A source of rows, as `potstill.data.sources.read_source` takes it; labels are not needed.
        model: ``"student"`` or ``"teacher"``.
        runtime: Of the student's exports; None takes the chosen one.
        task: Of several tasks, the one to answer; None answers all.
        split: Of data with several splits, the one to read.
        columns: Role → column of the new rows, where the user says so.
        keep: Columns of the data in the output: ``"all"``, ``"none"``, or names with commas between.
        top: Most likely classes instead of the probability of each.
        batch_size: Rows of one call of the model.
    """

    data: Any
    model: str = STUDENT
    runtime: str | None = None
    task: str | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: str = ALL
    top: int | None = None
    batch_size: int = 32


class Prediction:
    """The predictions of a finished run for new rows; everything is checked when it is made.

    Attributes:
        notes: What there is to say to the user.

    Raises:
        OutputError: The folder holds no finished run.
        RecipeError: No such model, runtime, task or option for this run.
        DataError: The data cannot be read, or their columns are not clear.
    """

    def __init__(self, folder: str | Path, asked: Asked) -> None:
        if asked.model not in (STUDENT, TEACHER):
            raise RecipeError(f"--model is {asked.model!r}", f"{STUDENT} or {TEACHER}", f"write --model {STUDENT}")
        self.asked = asked
        self.notes: list[str] = []
        self.finished = FinishedRun(folder)
        self.task = self.finished.task
        self.numbers = self._numbers()
        self.source, self.rows = self._read()
        self.roles = {number: self._roles(number) for number in self.numbers}
        self.kept = self._kept()
        self._note_labels()
        self.models = {number: self._model(number) for number in self.numbers}

    @property
    def served_as(self) -> str:
        """The runtime and precision that answer."""
        name: str = next(iter(self.models.values())).runner.name
        return name

    def write(self, writer: Writer, on_rows: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Write the predictions of all rows; returns how many.

        Args:
            on_rows: Called with rows done and all rows.

        Raises:
            DataError: A row cannot be read; names the data and the row.
        """
        total, written = len(self.rows), 0
        for start in range(0, total, PART_ROWS):
            part = self.rows.select(range(start, min(start + PART_ROWS, total)))
            table = self._predicted(part, start)
            writer.write(table)
            written += table.num_rows
            on_rows(start + len(part), total)
        return written

    def _predicted(self, part: Dataset, start: int) -> pa.Table:
        columns = {name: _plain(part, name) for name in self.kept}
        for number in self.numbers:
            content = self._content(part, number, start)
            named = self._flat(self.models[number].to(content))
            for name in named.column_names:
                column = name if len(self.numbers) == 1 else f"{list(self.finished.recipe.tasks)[number or 0]}_{name}"
                if column in columns:
                    raise _taken(column, self.kept)
                columns[column] = named.column(name)
        return pa.table(columns)

    def _content(self, part: Dataset, number: int | None, start: int) -> pa.Table:
        try:
            content, _ = self.task.modality.read(
                part, self.roles[number], SPLIT, [], folder=self.source.folder, skip_corrupt=False, start=start
            )
        except DataError as err:
            given = err.given.replace(f" of the {SPLIT} split", "")
            raise DataError(f"{self._name}: {given}", err.accepted, _by_flag(err.todo)) from err
        return content

    @property
    def _name(self) -> str:
        return str(self.asked.data) if isinstance(self.asked.data, str | Path) else "the data"

    def _flat(self, named: pa.Table) -> pa.Table:
        """Each of several numbers or probabilities as a column of its own."""
        columns: dict[str, Any] = {}
        for name in named.column_names:
            column = named.column(name).combine_chunks()
            if not pa.types.is_struct(column.type):
                columns[name] = column
            elif name == CHANCES and self.asked.top is not None:
                columns |= _top(column, self.asked.top)
            else:
                stem = "probability" if name == CHANCES else name
                columns |= {f"{stem}_{part.name}": column.field(index) for index, part in enumerate(column.type)}
        if self.asked.top is not None and CHANCES not in named.column_names:
            raise RecipeError(
                f"--top is given, and the task is {self.task.name}, whose answers are {self.task.answers().noun}",
                "a task that gives each class a probability",
                "leave --top out",
            )
        return pa.table(columns)

    # -- what is asked

    def _numbers(self) -> list[int | None]:
        names = list(self.finished.recipe.tasks)
        if self.asked.task is not None and self.asked.task not in names:
            accepted = ", ".join(names) or "none: this student has one task"
            todo = f"write --task {names[0]}" if names else "leave --task out"
            raise RecipeError(f"there is no task {self.asked.task!r}", accepted, todo)
        if self.asked.top is not None and self.asked.top < 1:
            raise RecipeError(f"--top is {self.asked.top}", "1 or more", "write --top 3")
        if self.asked.task is not None:
            return [names.index(self.asked.task)]
        return list(range(len(names))) if names else [None]

    def _read(self) -> tuple[Source, Dataset]:
        source, split = read_source(self.asked.data, modality=self.task.modality, labelled=False), self.asked.split
        if split not in (None, *source.splits) or (split is None and len(source.splits) > 1):
            given = "has the splits" if split is None else f"has no split {split!r}; its splits are"
            names = list(source.splits)
            raise DataError(f"{self._name} {given} {', '.join(names)}", "one of them", f"add --split {names[-1]}")
        rows = source.splits[split or next(iter(source.splits))]
        if len(rows) == 0:
            raise DataError(f"{self._name} has no rows", "at least one row", "check how it was written")
        return source, rows

    def _roles(self, number: int | None) -> dict[str, str]:
        """The content columns: as asked, else those of the run by name, else found by name and type."""
        content, features = self.task.modality.roles, self.rows.features
        trained = {role: column for role, column in self.finished.columns_of(number).items() if role in content}
        asked = dict(self.asked.columns)
        if not asked and trained and all(column in features for column in trained.values()):
            return trained
        said = self.finished.data_of(number).columns
        by_recipe = {role: str(said[role]) for role in content if role in said and said[role] in features}
        try:
            found = self.task.find_columns(self.rows, asked or by_recipe, labelled=False)
        except DataError as err:
            raise DataError(f"{self._name}: {err.given}", err.accepted, _by_flag(err.todo)) from err
        roles = {role: column for role, column in found.items() if role in content}
        if trained and set(roles) != set(trained) and not self.task.answers().is_optional:
            pairs = ", ".join(f"{role} from {column!r}" for role, column in roles.items())
            flags = " ".join(f"--column {role}=NAME" for role in trained)
            raise DataError(
                f"{self._name} gives {pairs}, and the run was trained on {' and '.join(trained)}", "the same", f"add {flags}"
            )
        return roles

    def _kept(self) -> list[str]:
        asked, names = self.asked.keep, list(self.rows.column_names)
        if asked == NONE:
            return []
        if asked == ALL:
            return names
        wanted = [name.strip() for name in asked.split(",") if name.strip()]
        if missing := [name for name in wanted if name not in names]:
            raise DataError(
                f"--keep names {missing[0]!r}, which is no column of {self._name}",
                f"{ALL}, {NONE}, or some of {', '.join(names)}",
                f"write --keep {names[0]}",
            )
        return wanted

    def _note_labels(self) -> None:
        taken = {column for roles in self.roles.values() for column in roles.values()}
        trained = [
            column
            for number in self.numbers
            for role, column in self.finished.columns_of(number).items()
            if role.partition(":")[0] == "label"
        ]
        free = [name for name in self.rows.column_names if name not in taken]
        if labels := [name for name in free if name in trained] or named(free, (*LABEL_NAMES, *NUMBER_NAMES)):
            listed = ", ".join(map(repr, labels))
            command = f"potstill evaluate {self.finished.folder} --data {self._name}"
            self.notes.append(f"labels are not needed and not read ({listed}); to measure by them: {command}")

    # -- models

    def _model(self, number: int | None) -> Answering:
        finished, size = self.finished, self.asked.batch_size
        data = finished.data_of(number)
        if self.asked.model == TEACHER:
            if self.asked.runtime is not None:
                raise RecipeError("--runtime is given for the teacher", "a runtime of the student", "leave --runtime out")
            teacher = finished.flow.open(finished.flow.parties[number or 0].teacher)
            asked = TorchRunner(teacher.model.to(compute_device()))
            return Answering(teacher.rows.task, asked, teacher.processor, teacher.processor, data, batch_size=size)
        runner, block = finished.served(self.asked.runtime), finished.block_of(number)
        return Answering(self.task, runner, finished.processor, finished.measure, data, block, size)


def _plain(part: Dataset, name: str) -> pa.ChunkedArray:
    """A column as it is written; of images their path."""
    column = table_of(part, [name]).column(0)
    if not is_image(part.features[name]):
        return column
    return pa.chunked_array([pa.array([_path(value) for value in column.to_pylist()], pa.string())])


def _path(value: Any) -> str | None:
    return value.get("path") if isinstance(value, dict) else None


def _top(chances: pa.StructArray, count: int) -> dict[str, pa.Array]:
    names = [part.name for part in chances.type]
    values = np.stack([chances.field(index).to_numpy(zero_copy_only=False) for index in range(len(names))], axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    found: dict[str, pa.Array] = {}
    for place in range(order.shape[1]):
        found[f"top_{place + 1}"] = pa.array([names[index] for index in order[:, place]], pa.string())
        found[f"top_{place + 1}_probability"] = pa.array(np.take_along_axis(values, order[:, place : place + 1], 1)[:, 0])
    return found


def _by_flag(todo: str) -> str:
    """What to do, in words of the command line: columns are named by a flag here."""
    return "name the column: --column ROLE=NAME, for example --column text=review" if "data.columns" in todo else todo


def _taken(column: str, kept: list[str]) -> DataError:
    others = ",".join(name for name in kept if name != column)
    return DataError(
        f"the data have a column {column!r}, and the predictions have one of that name",
        "other names in the data, or only some of its columns in the output",
        f"add --keep {others or NONE}",
    )
