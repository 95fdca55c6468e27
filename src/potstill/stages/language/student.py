"""Stage `student` of a language model: the model that is to learn, as it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
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
    if asked.adapter != "none":
        check_lora(model, asked.lora)
    model.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    write_json_atomic(folder / "facts.json", {"plan": {"ratio_asked": asked.ratio, "layers_kept": [], "notes": []}})
    return []


def open_student(folder: Path, given: Given) -> LanguageModel:
    """The student in this folder."""
    return language_model("student", folder)
