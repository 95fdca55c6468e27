"""Stage `augment`: rows made out of the training rows, for the teacher to label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, concatenate_datasets

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.data.run_rows import SPLITS, Rows
from potstill.errors import DataError
from potstill.ground.counted import counted
from potstill.models.party import Teacher
from potstill.planning.inputs import errors_of_task

MOST_ROWS, MOST_TOKENS = 120_000, 1_500_000  # the teacher labels them in a few minutes on two cores
MOST_COPIES = 12


@dataclass(frozen=True)
class AugmentOptions:
    """What making rows reads of a recipe."""

    augment: Literal["auto", "none"] | int
    max_tokens: int | None
    seed: int
    tasks: tuple[str, ...] = ()


def augment_rows(given: Given, options: AugmentOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Make rows out of the training rows of every task, each task's share by its share of the training rows; encode them."""
    rows: Rows = given.rows
    teacher: Teacher = given.teacher
    teachers: tuple[Teacher, ...] = given.teachers
    num_train = len(rows.split("train"))
    num = num_augmented(options.augment, teacher)
    made = []
    for one, name in zip(teachers, options.tasks or ("",), strict=True):
        train = one.rows.split("train")
        share = num if not name else max(1, num * len(train) // num_train)
        with errors_of_task(name):
            made.append(_more_rows(one, train, share, options.seed))
    whole = made[0] if len(made) == 1 else concatenate_datasets(made)
    whole.save_to_disk(str(folder / "rows"))
    rows.task.encode(whole, teacher.processor, folder / "encoded", max_tokens=options.max_tokens)
    return [
        f"{counted(len(whole), 'row was', 'rows were')}"
        f" made out of {counted(num_train, 'training row')}, for the teacher to label"
    ]


def wants_augmentation(given: Given, options: AugmentOptions) -> bool:
    """Whether this run makes rows."""
    return given.rows.task.modality.can_augment and num_augmented(options.augment, given.teacher) > 0


def open_augmented(folder: Path, given: Given) -> Rows:
    """All rows, with the augmented ones where there are any."""
    rows: Rows = given.rows
    return rows.with_augmented(folder / "rows", folder / "encoded") if (folder / "rows").is_dir() else rows


def num_augmented(asked: Literal["auto", "none"] | int, teacher: Teacher) -> int:
    """How many rows to make: as asked, or enough that a small data set teaches what the teacher knows."""
    if asked == "none":
        return 0
    train = teacher.encoded("train")
    return affordable_rows(len(train), float(train.lengths.mean())) if asked == "auto" else int(asked) * len(train)


def affordable_rows(num_rows: int, mean_tokens: float) -> int:
    """How many rows to add to `num_rows` of `mean_tokens` each: a budget of tokens, so that short texts give more rows.

    Example:
        >>> [affordable_rows(*case) for case in ((10_000, 25.0), (10_000, 12.5), (100, 25.0), (90_000, 25.0))]
        [50000, 110000, 1200, 0]
    """
    total = min(MOST_ROWS, MOST_TOKENS / max(mean_tokens, 1.0), (1 + MOST_COPIES) * num_rows)
    return max(0, int(total) - num_rows)


def _more_rows(teacher: Teacher, train: Dataset, num: int, seed: int) -> Dataset:
    """Rows made out of training rows; the teacher's tokens and embeddings say which words may take another's place."""
    modality, embeddings = teacher.rows.task.modality, teacher.model.get_input_embeddings().weight.detach().cpu().numpy()
    made = modality.augmented(train, num=num, seed=seed, tokenizer=teacher.processor, embeddings=embeddings)
    no_label = teacher.rows.task.answers().missing(len(made), teacher.rows.label_names)
    new: Dataset = modality.augmented_rows(made, first_row_id=_next_row_id(teacher, made), no_label=no_label)
    return new


def _next_row_id(teacher: Teacher, made: Sequence[Any]) -> int:
    """A row id beyond all in use; refuses where no rows were made."""
    if not made:
        raise DataError("no rows could be made out of the training texts", "texts of two words or more", "set data.augment: none")
    used = [teacher.encoded(name).row_ids for name in SPLITS if teacher.rows.has(name)]
    return int(np.concatenate(used).max()) + 1
