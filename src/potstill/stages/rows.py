"""Stages `data` and `augment`: rows read, split, labelled, encoded for the teacher, and multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset

from potstill.answers.label_kinds import kind_of
from potstill.data.splits import Splits, load
from potstill.errors import DataError, RecipeError
from potstill.ground.disk import write_json_atomic
from potstill.methods.catalogue import require_answers
from potstill.methods.contract import MethodOptions
from potstill.methods.response import in_units
from potstill.planning import phases
from potstill.planning.check import ANY_MODEL, check_method
from potstill.planning.loss_table import read_losses
from potstill.stages.row_forms import formed
from potstill.stages.user_inputs import load_given
from potstill.training.row_plan import read_row_plan
from potstill.training.row_statistics import no_lengths, refuse_certain

if TYPE_CHECKING:
    from potstill.stages.context import Run

MOST_ROWS, MOST_TOKENS = 120_000, 1_500_000  # so much the teacher labels in a few minutes on two cores
MOST_COPIES = 12
SPLITS = ("train", "validation", "test", "unlabelled")


def read_data(run: Run, folder: Path) -> Sequence[str]:
    """Load the data, save the splits and encode them in the teacher's tokens."""
    check_answers(run)
    splits = load_splits(run)
    run.know_labels(splits.label_names)
    teacher = load_given(run, splits.label_names)
    check_method(run.recipe, teacher.model)
    rows = {name: part for name in SPLITS if (part := getattr(splits, name)) is not None}
    present, notes = formed(run, rows, teacher.processor)
    return write_rows(run, folder, replace(splits, notes=(*splits.notes, *teacher.notes, *notes), **present), teacher.processor)


def load_splits(run: Run) -> Splits:
    """The rows of the recipe's data, with the labels in the order of the teacher's."""
    return load(
        run.given_data if run.given_data is not None else run.recipe.data.source,
        task=run.task,
        columns=run.recipe.data.columns,
        label_names=_teacher_names(run),
        validation=run.recipe.data.validation,
        test=run.recipe.data.test,
        unlabelled=run.recipe.data.unlabelled,
        seed=run.recipe.seed,
        max_rows=run.recipe.data.max_rows,
        skip_corrupt=run.recipe.data.skip_corrupt,
    )


def write_rows(run: Run, folder: Path, splits: Splits, processor: Any) -> Sequence[str]:
    """Save the splits and encode them in the tokens of a processor.

    Args:
        run: The run.
        folder: Receives them.
        splits: The rows as they are encoded.
        processor: The teacher's tokenizer or image processor.
    """
    present = {name: part for name in SPLITS if (part := getattr(splits, name)) is not None}
    notes = list(splits.notes)
    for done, (name, part) in enumerate(present.items()):
        run.observer.stage_advanced(done, len(present), {})
        part.save_to_disk(str(folder / "splits" / name))
        encoded = run.task.encode(part, processor, folder / "encoded" / name, max_tokens=run.recipe.data.max_tokens)
        notes += encoded.notes
    write_json_atomic(folder / "facts.json", _facts(splits, present, notes))
    return notes


def check_answers(run: Run) -> None:
    """Refuse what the answers of the task cannot do, before anything is read.

    Raises:
        RecipeError: A baseline or a teacher to be trained where rows have no labels to learn from; another architecture for
            embeddings, words or spans.
        NeedsError: A method or losses on class probabilities, where answers are of another kind.
    """
    recipe, answers = run.recipe, run.task.answers()
    if answers.from_labels is None:
        for key, wanted in (
            ("baseline: true", recipe.baseline),
            ("teacher.finetune: always", recipe.teacher.finetune == "always"),
            ("teacher.from_scratch: true", recipe.teacher.from_scratch),
        ):
            if wanted:
                raise RecipeError(
                    f"{key} asks for training on labels, and rows of {run.task.name} have none",
                    "learning from the teacher alone",
                    f"leave {key.partition(':')[0]} out",
                )
    if recipe.teacher.others and not answers.is_distribution:
        raise RecipeError(
            f"{1 + len(recipe.teacher.others)} teachers are given; answers of {run.task.name} are no probabilities of classes",
            "several teachers for classification, one teacher for other tasks",
            "leave one teacher",
        )
    if recipe.student.architecture is not None and (answers.kind == "embedding" or not answers.is_of_row):
        lack = "have no sentence embedding" if answers.kind == "embedding" else "answer whole rows, not their words or places"
        raise RecipeError(
            f"student.architecture is {recipe.student.architecture!r}, and such students {lack}",
            f"for {run.task.name}: a student cut out of the teacher, or a named one (student.model)",
            "leave student.architecture out",
        )
    plan = read_row_plan(recipe.distill.rows.model_dump())
    refuse_certain(plan, answers.kind)
    if plan.order == "curriculum" and plan.difficulty == "length" and run.task.modality == "image":
        raise no_lengths("images have none")
    if recipe.distill.losses is None:
        require_answers(recipe.distill.method, MethodOptions(answers=answers))
    else:
        in_units(read_losses(recipe.distill.losses, ANY_MODEL, ANY_MODEL), answers)


def augment_data(run: Run, folder: Path) -> Sequence[str]:
    """Make rows out of the training rows, for the teacher to label."""
    train = run.split("train")
    rows = more_rows(run, train, augmented_rows(run, len(train)))
    return write_augmented(run, folder, rows, len(train))


def more_rows(run: Run, train: Dataset, num: int) -> Dataset:
    """Rows made out of training rows.

    Args:
        run: The run; its teacher's tokens and embeddings say which words may take another's place.
        train: Training rows.
        num: How many to make.
    """
    return _more_words(run, train, num) if "tokens" in train.column_names else _more_texts(run, train, num)


def write_augmented(run: Run, folder: Path, rows: Dataset, num_train: int) -> Sequence[str]:
    """Save augmented rows and encode them in the teacher's tokens.

    Args:
        run: The run.
        folder: Receives them.
        rows: The rows.
        num_train: How many rows they were made out of.
    """
    rows.save_to_disk(str(folder / "rows"))
    run.task.encode(rows, run.teacher.processor, folder / "encoded", max_tokens=run.recipe.data.max_tokens)
    return [f"{len(rows)} rows were made out of {num_train} training rows, for the teacher to label"]


def _more_words(run: Run, train: Dataset, num: int) -> Dataset:
    from potstill.modalities.text.augment_words import augment_words, rows_of_words

    teacher = run.teacher
    made = augment_words(
        list(train["tokens"]),
        num=num,
        seed=run.recipe.seed,
        tokenizer=teacher.processor,
        embeddings=_word_embeddings(teacher.model),
    )
    return rows_of_words(made, first_row_id=_next_row_id(run, made))


def _more_texts(run: Run, train: Dataset, num: int) -> Dataset:
    from potstill.modalities.text.augment import augment_texts

    texts = (
        list(zip(train["text"], train["text_pair"], strict=True)) if "text_pair" in train.column_names else list(train["text"])
    )
    teacher = run.teacher
    made = augment_texts(
        texts,
        num=num,
        seed=run.recipe.seed,
        tokenizer=teacher.processor,
        embeddings=_word_embeddings(teacher.model),
    )
    return _as_rows(made, run)


def wants_augmentation(run: Run) -> bool:
    """Whether this run makes rows."""
    return can_augment(run) and augmented_rows(run, len(run.teacher_rows("train"))) > 0


def can_augment(run: Run) -> bool:
    """Whether rows of this task can be made out of others: texts and words, but no questions, whose answers would be lost."""
    return phases.can_augment(run.task)


def augmented_rows(run: Run, num_rows: int) -> int:
    """How many rows to make: as asked, or enough that a small data set teaches what the teacher knows."""
    asked = run.recipe.data.augment
    if asked == "none":
        return 0
    if asked == "auto":
        return affordable_rows(num_rows, float(run.teacher_rows("train").lengths.mean()))
    return int(asked) * num_rows


def affordable_rows(num_rows: int, mean_tokens: float) -> int:
    """How many rows to make beside `num_rows` of so many tokens: a budget of tokens, so that short texts give more rows.

    Example:
        >>> [affordable_rows(*case) for case in ((10_000, 25.0), (10_000, 12.5), (100, 25.0), (90_000, 25.0))]
        [50000, 110000, 1200, 0]
    """
    total = min(MOST_ROWS, MOST_TOKENS / max(mean_tokens, 1.0), (1 + MOST_COPIES) * num_rows)
    return max(0, int(total) - num_rows)


def _teacher_names(run: Run) -> tuple[str, ...] | None:
    """The teacher's label order, where it has a head with names worth keeping."""
    if run.recipe.teacher.from_scratch:
        return None
    teacher = load_given(run, None)
    if teacher.head_is_new:
        return None
    from potstill.models.labels import teacher_labels

    return teacher_labels(teacher.model.config)


def _facts(splits: Splits, present: dict[str, Dataset], notes: list[str]) -> dict[str, object]:
    return {
        "label_names": list(splits.label_names),
        "rows": {name: len(part) for name, part in present.items()},
        "notes": list(dict.fromkeys(notes)),
        "fingerprint": splits.fingerprint,
    }


def _as_rows(made: Sequence[str | tuple[str, str]], run: Run) -> Dataset:
    from potstill.modalities.text.augment import augmented_rows as rows_of_texts

    first = _next_row_id(run, made)
    no_label = kind_of(run.task).missing(len(made), run.label_names)
    return rows_of_texts(made, first_row_id=first, no_label=no_label)


def _next_row_id(run: Run, made: Sequence[Any]) -> int:
    """A row id beyond all in use; refuses where no rows were made."""
    if not made:
        raise DataError("no rows could be made out of the training texts", "texts of two words or more", "set data.augment: none")
    used = [int(run.teacher_rows(name).row_ids.max()) for name in ("train", "validation", "test", "unlabelled") if run.has(name)]
    return max(used) + 1


def _word_embeddings(model: Any) -> np.ndarray:
    """[V, D] the teacher's own word embeddings."""
    table: torch.Tensor = model.get_input_embeddings().weight
    return table.detach().cpu().numpy()
