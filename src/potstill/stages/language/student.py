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
from potstill.students.decoder import cut_decoder, measure_importance, plan_decoder

# Windows of the training rows on which the teacher's parts are weighed.
SAMPLED_WINDOWS, BYTES_PER_PARAMETER = 32, 4


@dataclass(frozen=True)
class StudentOptions:
    """What the student's start depends on."""

    student: StudentRecipe


def make_student(given: Given, options: StudentOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Load the student that the recipe names, or cut one out of the teacher."""
    asked = options.student
    plan: dict[str, Any]
    teacher: LanguageModel = given.teacher
    if asked.model is not None:
        model = load_decoder(asked.model, trust_remote_code=asked.trust_remote_code)
        tokenizer, plan = load_tokenizer(asked.model), {"ratio_asked": None, "layers_kept": [], "notes": []}
        _check_tokens(tokenizer, teacher.tokenizer, asked.model)
    else:
        model, plan = _cut(teacher, given.rows, asked)
        tokenizer = teacher.tokenizer
    if asked.adapter != "none":
        check_lora(model, asked.lora)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json_atomic(folder / "facts.json", {"plan": plan})
    return []


def _cut(teacher: LanguageModel, rows: Any, asked: StudentRecipe) -> tuple[Any, dict[str, Any]]:
    decoder, params = teacher.decoder, asked.params
    if asked.latency_ms is not None:
        raise RecipeError(
            "student.latency_ms cannot be planned for language models yet",
            "student.ratio, student.params, student.bytes or student.model",
            "set student.ratio: 0.5",
        )
    if asked.bytes is not None:
        params = asked.bytes // BYTES_PER_PARAMETER
    ratio = None if params is not None else asked.budget["ratio"]
    shape, _ = plan_decoder(decoder.config, ratio=ratio, params=params)
    windows = rows.windows("train")
    sample = [windows[number] for number in range(min(SAMPLED_WINDOWS, len(windows)))]
    batches = [rows.collator(sample[start : start + 4]) for start in range(0, len(sample), 4)]
    model, kept = cut_decoder(decoder, shape, measure_importance(decoder, batches))
    notes = [
        f"cut from the teacher by what its parts do on {len(sample)} windows: {shape.layers} layers, width {shape.width}, "
        f"{shape.neurons} neurons and {shape.groups} key-value heads a layer"
    ]
    return model, {"ratio_asked": ratio, "layers_kept": [layer + 1 for layer in kept], "notes": notes}


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
