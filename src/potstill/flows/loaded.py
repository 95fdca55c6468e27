"""A saved student in memory: the model, its processor, and its answers to rows in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from datasets import Dataset

from potstill.contracts.runner import Runner
from potstill.errors import DataError, PotstillError, RecipeError, first_line
from potstill.exports.runtimes import TorchRunner
from potstill.flows.answering import Answering
from potstill.flows.finished import TORCH_NAMES, FinishedRun
from potstill.recipe.model import DataRecipe
from potstill.tasks import infer
from potstill.tasks.loading import load as load_pair

SPLIT = "new"


class LoadedStudent(tuple[Any, Any]):
    """The pair (model, processor), which can be unpacked, and its answers to rows.

    Example:
        model, tokenizer = student = potstill.load("out/")
        student.predict(["a fine film", "a dull one"])
    """

    folder: Path

    def __new__(cls, folder: str | Path, pair: tuple[Any, Any]) -> LoadedStudent:
        """Of the folder that `pair` was loaded from."""
        made = super().__new__(cls, pair)
        made.folder = Path(folder).expanduser()
        return made

    @property
    def model(self) -> Any:
        """The model, in eval mode."""
        return self[0]

    @property
    def processor(self) -> Any:
        """Its tokenizer or image processor."""
        return self[1]

    def predict(self, rows: Sequence[Any], *, runtime: str | None = None, batch_size: int = 32) -> list[dict[str, Any]]:
        """Answers to rows, in their order.

        Args:
            rows: A list, or a column or table of pandas: texts; pairs of texts, or a question with its context; lists of words;
                images or their paths; or mappings from the names of the run's columns, or from text, text_pair, tokens, question,
                context, image.
            runtime: torch, or a runtime, format or precision that the run exported (``"onnx"``, ``"int8"`` …); None: torch.
            batch_size: Rows of one call of the model.

        Returns:
            For each row ``prediction`` and, where answers are classes, ``probabilities`` by the names of the classes; further
            keys as `potstill predict` writes them. Of several tasks a mapping from the name of each to these.

        Raises:
            DataError: Rows of another kind.
            RecipeError: A runtime that the run did not export, or one without the folder of the run.
        """
        if isinstance(rows, str | bytes | Mapping) or not hasattr(rows, "__len__"):
            raise DataError(f"rows are {type(rows).__name__}", "a list of rows", "for one row write predict([row])")
        if batch_size < 1:
            raise RecipeError(f"batch_size is {batch_size}", "1 or more", "leave it out")
        if isinstance(rows, pd.DataFrame | pd.Series):
            rows = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else rows.tolist()
        if len(rows) == 0:
            return []
        named = [self._answers(number, rows, runtime, batch_size) for number in self._numbers]
        if self._run is None or not self._run.recipe.tasks:
            return named[0]
        return [dict(zip(self._run.recipe.tasks, parts, strict=True)) for parts in zip(*named, strict=True)]

    @cached_property
    def _run(self) -> FinishedRun | None:
        """The run that the student is of; None for a folder of a student alone."""
        try:
            return FinishedRun(self.folder)
        except PotstillError:
            return None

    @property
    def _numbers(self) -> Sequence[int | None]:
        tasks = () if self._run is None else self._run.recipe.tasks
        return range(len(tasks)) if tasks else (None,)

    def _answers(self, number: int | None, rows: Sequence[Any], runtime: str | None, batch_size: int) -> list[dict[str, Any]]:
        answering = self._answering(number, runtime, batch_size)
        dataset, roles = _table(rows, answering.task, {} if self._run is None else self._run.columns_of(number))
        content, _ = answering.task.modality.read(dataset, roles, SPLIT, [], folder=None, skip_corrupt=False)
        return answering.to(content).to_pylist()

    def _answering(self, number: int | None, runtime: str | None, batch_size: int) -> Answering:
        run = self._run
        in_torch = runtime is None or runtime in TORCH_NAMES
        if run is None and not in_torch:
            raise RecipeError(
                f"runtime is {runtime!r}, and {self.folder} is the folder of a student alone",
                "torch, or the output folder of the run that exported it",
                'load the run: potstill.load("out/")',
            )
        if run is None:
            task = infer(self.model.config)
            names = getattr(self.model.config, "id2label", None) or {}
            task.label_names = tuple(str(names[index]) for index in sorted(names)) if task.answers().has_label_names else ()
            plain = TorchRunner(self.model)
            return Answering(task, plain, self.processor, self.processor, DataRecipe(source=SPLIT), batch_size=batch_size)
        runner: Runner = TorchRunner(self.model) if in_torch else run.served(runtime)
        block = run.block_of(number)
        return Answering(run.task, runner, self.processor, run.measure, run.data_of(number), block, batch_size)


def load(folder: str | Path, *, trust_remote_code: bool = False) -> LoadedStudent:
    """A saved student and its tokenizer or image processor, with `LoadedStudent.predict`.

    Args:
        folder: The output folder of a run, or the folder of a student.
        trust_remote_code: Whether the function may run that a student made by ``package.module:function`` names.

    Returns:
        The pair (model in eval mode on the CPU, processor).

    Raises:
        ModelError: No such folder, or no whole student in it.
    """
    return LoadedStudent(folder, load_pair(folder, trust_remote_code=trust_remote_code))


def _table(rows: Sequence[Any], task: Any, known: Mapping[str, str]) -> tuple[Dataset, dict[str, str]]:
    """Rows as a table, and role → column of their content.

    Args:
        known: Role → column of the run's own rows.
    """
    content = tuple(task.modality.roles)
    if other := next((place for place, row in enumerate(rows) if _kind(row) != _kind(rows[0])), None):
        raise DataError(
            f"row {other} is {_described(rows[other])}, and row 0 is {_described(rows[0])}", "rows of one kind", "correct the row"
        )
    if not isinstance(rows[0], Mapping):
        parts = [row if isinstance(row, tuple) else (row,) for row in rows]
        if len(parts[0]) > len(content):
            accepted = f"at most {len(content)}: {', '.join(content)}"
            raise DataError(f"row 0 has {len(parts[0])} parts", accepted, "leave the others out")
        columns = {role: [_plain(value) for value in values] for role, values in zip(content, zip(*parts))}
        return _made(Dataset.from_dict, columns), {role: role for role in columns}
    dataset = _made(Dataset.from_list, [{key: _plain(value) for key, value in row.items()} for row in rows])
    trained = {role: column for role, column in known.items() if role in content}
    if not trained or any(column not in dataset.features for column in trained.values()):
        trained = {role: role for role in content if role in dataset.features} or task.find_columns(dataset, None, labelled=False)
    return dataset, {role: column for role, column in trained.items() if role in content}


def _made(make: Callable[[Any], Dataset], content: Any) -> Dataset:
    try:
        return make(content)
    except (UnicodeEncodeError, pa.ArrowInvalid, pa.ArrowTypeError) as err:
        raise DataError(
            f"the rows make no table: {first_line(err)}", "columns of one type, of valid text", "correct the rows"
        ) from err


def _kind(row: Any) -> Any:
    if isinstance(row, Mapping):
        return frozenset(row)
    return len(row) if isinstance(row, tuple) else None


def _described(row: Any) -> str:
    if isinstance(row, Mapping):
        return f"a mapping with the keys {', '.join(map(str, row))}"
    return f"a tuple of {len(row)}" if isinstance(row, tuple) else f"one {type(row).__name__}"


def _plain(value: Any) -> Any:
    """A value as a table holds it; the NaN of a cell without content is none."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if isinstance(value, Path) else value
