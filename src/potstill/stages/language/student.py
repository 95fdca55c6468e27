"""Stage `student` of a language model: the model that is to learn, as it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.errors import RecipeError
from potstill.ground.disk import write_json_atomic
from potstill.models.adapters import check_lora
from potstill.models.language_model import LanguageModel, language_model, load_decoder, load_tokenizer
from potstill.recipe.model import StudentRecipe


@dataclass(frozen=True)
class StudentOptions:
    """What the student's start depends on."""

    student: StudentRecipe
    seed: int


def make_student(given: Given, options: StudentOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Load the student that the recipe names."""
    asked = options.student
    teacher: LanguageModel = given.teacher
    source = asked.model if asked.model is not None else teacher.source
    model = load_decoder(source, trust_remote_code=asked.trust_remote_code)
    tokenizer = load_tokenizer(source)
    _check_tokens(tokenizer, teacher.tokenizer, source)
    if asked.adapter != "none":
        check_lora(model, asked.lora)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json_atomic(folder / "facts.json", {"plan": {"ratio_asked": asked.ratio, "layers_kept": [], "notes": []}})
    return []


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
