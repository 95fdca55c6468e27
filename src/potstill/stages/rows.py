"""Stage `data`: rows read, split, labelled and encoded for the teacher; those of several tasks joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.data.run_rows import SPLITS, Rows, places_in, read_facts
from potstill.data.splits import Splits
from potstill.data.task_rows import blocks_of, join_tasks
from potstill.errors import RecipeError
from potstill.ground.counted import counted
from potstill.ground.disk import write_json_atomic
from potstill.planning.inputs import Inputs, errors_of_task
from potstill.recipe.model import DataRecipe


@dataclass(frozen=True)
class RowsOptions:
    """What reading rows depends on; each of the inputs carries its own part."""

    data: tuple[DataRecipe, ...]
    teachers: tuple[tuple[str, bool, bool], ...]
    seed: int


def read_rows(given: Given, options: RowsOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Load the data, save the splits and encode them in the first teacher's tokens.

    Raises:
        PotstillError: What is wrong with the data or a teacher; of several tasks, names the task.
    """
    inputs: tuple[Inputs, ...] = given.inputs
    if len(inputs) == 1:
        splits, processor = _read(inputs[0], None)
        columns = {"": dict(splits.columns)}
        return _write(given.task, splits, processor, options.data[0].max_tokens, folder, observer, columns)
    processor = inputs[0].load_anew(None).processor
    parts = {}
    for one in inputs:
        with errors_of_task(one.name):
            parts[one.name] = _read(one, processor)[0]
    joined = join_tasks(parts)
    shown = (f"{task}: classes {start} to {stop - 1}" for task, (start, stop) in blocks_of(joined.label_names).items())
    splits = replace(joined, notes=(*joined.notes, *shown))
    columns = {name: dict(part.columns) for name, part in parts.items()}
    return _write(given.task, splits, processor, options.data[0].max_tokens, folder, observer, columns)


def _read(one: Inputs, processor: Any) -> tuple[Splits, Any]:
    """The rows as they are encoded, which fit their teacher, and the processor that measures them."""
    splits = one.read()
    know_labels(one.task, splits.label_names)
    teacher = one.load(splits.label_names)
    processor = processor or teacher.processor
    rows = {name: part for name in SPLITS if (part := getattr(splits, name)) is not None}
    present, notes = formed(one.task, one.data, rows, processor)
    return replace(splits, notes=(*splits.notes, *teacher.notes, *notes), **present), processor


def _write(
    task: Any,
    splits: Splits,
    processor: Any,
    max_tokens: int | None,
    folder: Path,
    observer: Observer,
    columns: Mapping[str, Mapping[str, str]],
) -> Sequence[str]:
    """Save the splits and encode them in the tokens of a processor; `columns` are those of each task."""
    know_labels(task, splits.label_names)
    present = {name: part for name in SPLITS if (part := getattr(splits, name)) is not None}
    notes = list(splits.notes)
    for done, (name, part) in enumerate(present.items()):
        observer.stage_step(f"encode the {name} split, {counted(len(part), 'row')}")
        observer.stage_advanced(done, len(present), {})
        part.save_to_disk(str(folder / "splits" / name))
        notes += task.encode(part, processor, folder / "encoded" / name, max_tokens=max_tokens).notes
    facts = {
        "label_names": list(splits.label_names),
        "rows": {name: len(part) for name, part in present.items()},
        "notes": list(dict.fromkeys(notes)),
        "warnings": list(splits.warnings),
        "fingerprint": splits.fingerprint,
        "columns": columns,
    }
    write_json_atomic(folder / "facts.json", facts)
    return notes


def open_rows(folder: Path, given: Given) -> Rows:
    """The rows that `read_rows` left.

    Raises:
        ModelError: The folder is not as its stage wrote it.
    """
    rows = Rows(given.task, read_facts(folder), places_in(folder / "splits"), places_in(folder / "encoded"))
    know_labels(rows.task, rows.label_names)
    return rows


def open_task_rows(folder: Path, given: Given, *, number: int) -> Rows:
    """The rows of one of several tasks."""
    rows: Rows = given.rows
    own = rows.of_task(number, given.inputs.task)
    know_labels(own.task, own.label_names)
    return own


def know_labels(task: Any, names: tuple[str, ...]) -> None:
    """Give the task its labels, where it judges by their names."""
    task.label_names = names


def formed(task: Any, data: DataRecipe, splits: Mapping[str, Dataset], processor: Any) -> tuple[dict[str, Dataset], list[str]]:
    """The rows of every split as they are encoded: long texts in segments, contexts in windows; and notes.

    Args:
        processor: The teacher's tokenizer or image processor; segments and windows are measured in its tokens.

    Raises:
        RecipeError: `data.long_texts: segment` for a task that does not take segments.
    """
    if not _takes_segments(task, data, splits, getattr(processor, "is_fast", False)):
        return dict(splits), []
    made, notes = {}, []
    free = 1 + max((max(rows["row_id"]) for rows in splits.values() if len(rows)), default=0)
    for name, rows in splits.items():
        made[name], note = task.modality.split_long(rows, processor, first_row_id=free, split=name, max_tokens=data.max_tokens)
        free += len(made[name]) - len(rows)
        notes += [note] if note else []
    return made, notes


def _takes_segments(task: Any, data: DataRecipe, splits: Mapping[str, Dataset], knows_places: bool) -> bool:
    always = task.modality.is_windowed
    able = always or (task.modality.has_tokens and task.answers().can_average)
    if data.long_texts == "segment" and not able:
        raise RecipeError(
            f"data.long_texts is segment, and the task is {task.name}",
            "segment for text-classification; auto or truncate for other tasks",
            "set data.long_texts: auto",
        )
    is_pair = any("text_pair" in rows.column_names for rows in splits.values())
    by_itself = data.long_texts == "auto" and data.max_tokens is None and knows_places and not is_pair
    return always or (able and (data.long_texts == "segment" or by_itself))
