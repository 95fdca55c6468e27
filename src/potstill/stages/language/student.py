"""Stage `student` of a language model: the model that is to learn, as it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.errors import RecipeError
from potstill.ground.disk import write_json_atomic
from potstill.modalities.language.rows import RowsOptions, TokenRows, encode_splits, rows_in
from potstill.models.adapters import check_lora
from potstill.models.language_model import LanguageModel, RenumberedModel, language_model, load_decoder, load_tokenizer
from potstill.recipe.model import StudentRecipe
from potstill.students.decoders.make import cut_student

TOKENS, ROWS = "kept_ids.npy", "encoded"


@dataclass(frozen=True)
class StudentOptions:
    """What the student's start depends on.

    Args:
        rows: How texts are encoded, in the student's tokens where it has others.
    """

    student: StudentRecipe
    rows: RowsOptions


def make_student(given: Given, options: StudentOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Load the student that the recipe names, or cut one out of the teacher."""
    asked = options.student
    if asked.model is None:
        return _cut(given, options, folder, observer)
    model, tokenizer = load_decoder(asked.model, trust_remote_code=asked.trust_remote_code), load_tokenizer(asked.model)
    _check_tokens(tokenizer, given.teacher.tokenizer, asked.model)
    if asked.adapter != "none":
        check_lora(model, asked.lora)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json_atomic(folder / "facts.json", {"plan": {"ratio_asked": None, "layers_kept": [], "notes": []}})
    return []


def _cut(given: Given, options: StudentOptions, folder: Path, observer: Observer) -> Sequence[str]:
    observer.stage_step("cut it out of the teacher")
    made = cut_student(options.student, given.teacher, given.rows)
    if options.student.adapter != "none":
        check_lora(made.model, options.student.lora)
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    notes, vocabulary, plan = list(made.plan.notes), None, asdict(made.plan)
    if made.vocabulary is not None:
        observer.stage_step("encode the texts in its tokens")
        source = given.given.data if given.given.data is not None else options.rows.data.source
        encode_splits(source, options.rows, made.tokenizer, folder / ROWS)
        np.save(folder / TOKENS, made.vocabulary.kept_ids)
        vocabulary = {name: float(getattr(made.vocabulary, name)) for name in ("coverage", "unseen_inflation")}
        vocabulary["tokens"] = len(made.vocabulary.kept_ids)
        notes.append(
            f"texts unlike the training texts become about {vocabulary['unseen_inflation']:.2f} times as long in its tokens"
        )
    facts: dict[str, Any] = plan | {"achieved": plan["ratio"], "layers_kept": list(plan["layers"]), "notes": notes}
    write_json_atomic(folder / "facts.json", {"plan": facts, "vocabulary": vocabulary})
    achieved = f"{made.plan.parameters:,} of {made.plan.teacher_parameters:,} parameters (ratio {made.plan.ratio:.3f})"
    return [achieved, *notes]


def _check_tokens(own: Any, teachers: Any, source: str) -> None:
    """The rows hold numbers of the teacher's tokens: each has to be the same token for the student."""
    known, theirs = own.get_vocab(), teachers.get_vocab()
    others = [token for token, number in theirs.items() if known.get(token) != number]
    if others:
        raise RecipeError(
            f"the student {source} numbers {len(others):,} of the teacher's {len(theirs):,} tokens otherwise, or lacks them",
            "a student with the teacher's tokenizer; its head may be longer",
            "set student.model to a model of the teacher's family",
        )


def open_student(folder: Path, given: Given) -> LanguageModel:
    """The student in this folder."""
    return language_model("student", folder)


def open_student_rows(folder: Path, given: Given) -> TokenRows:
    """The rows in the student's tokens: those of the teacher unless its vocabulary is smaller."""
    rows: TokenRows = rows_in(folder / ROWS) if (folder / TOKENS).is_file() else given.rows
    return rows


def open_asked_teacher(folder: Path, given: Given) -> LanguageModel:
    """The teacher as the student's rows are read to it: by the student's numbers where its vocabulary is smaller."""
    teacher: LanguageModel = given.teacher
    if not (folder / TOKENS).is_file():
        return teacher
    student: LanguageModel = given.student
    return RenumberedModel(
        teacher.name,
        teacher.source,
        teacher.load_model,
        lambda: student.tokenizer,
        original=teacher,
        ids=torch.from_numpy(np.load(folder / TOKENS)),
    )


def tokens_of(folder: Path) -> list[int] | None:
    """Numbers of the teacher's tokens that the student in a folder has; None where it has all of them."""
    file = folder / TOKENS
    return np.load(file).tolist() if file.is_file() else None
