"""Stage `distill` of a language model: the student taught by the teacher's distributions and by the tokens of the data."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.ground.counted import counted
from potstill.ground.disk import write_json_atomic
from potstill.knowledge.language import LanguageTeacher
from potstill.knowledge.tokens.cache import TokenCache
from potstill.losses.tokens import TokenCE, TokenDivergence
from potstill.models.adapters import with_lora
from potstill.models.language_model import LanguageModel
from potstill.planning.learning import progress
from potstill.recipe.adapter import LoraRecipe
from potstill.recipe.language import LanguageOptions
from potstill.training.language_phase import train_language
from potstill.training.phase_settings import PhaseSettings
from potstill.training.reporting import Reporting
from potstill.training.schedules import Constant
from potstill.training.terms import Term

ADAPTER = "adapter"  # folder of the adapter, in that of the student with the adapter merged


@dataclass(frozen=True)
class LearnOptions:
    """What learning depends on."""

    method: str
    language: LanguageOptions
    settings: PhaseSettings
    lora: LoraRecipe | None = None
    reporting: Reporting = field(default_factory=Reporting, compare=False)


def terms_of(options: LanguageOptions, vocab_size: int | None, *, has_teacher: bool) -> list[Term]:
    """The objective: a divergence from the teacher, and the cross-entropy with the tokens of the data."""
    labels = Term("ce", TokenCE(), Constant(options.labels if has_teacher else 1.0))
    if not has_teacher:
        return [labels]
    loss = TokenDivergence(
        divergence=options.divergence,
        beta=options.beta,
        alpha=options.skew,
        temperature=options.temperature,
        vocab_size=vocab_size,
    )
    theirs = Term(options.divergence, loss, Constant(1.0 - options.labels))
    return [theirs, labels] if options.labels else [theirs]


def _source(given: Given, teacher: LanguageModel) -> TokenCache | LanguageTeacher:
    return given.answers if given.answers is not None else LanguageTeacher(teacher.decoder)


def learn(given: Given, options: LearnOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Teach the student, and save it as a plain model with its tokenizer."""
    student: LanguageModel = given.student
    teacher: LanguageModel = given.teacher
    rows, has_teacher = given.rows, options.method != "sft"
    model, tokenizer = student.load_model(), student.tokenizer
    if options.lora is not None:
        model = with_lora(model, options.lora, seed=options.settings.seed)
    outcome = train_language(
        model,
        rows=rows.windows("train"),
        collator=rows.collator,
        folder=folder / "training",
        terms=terms_of(options.language, len(tokenizer), has_teacher=has_teacher),
        source=_source(given, teacher) if has_teacher else None,
        eval_rows=rows.windows("validation"),
        settings=options.settings,
        on_progress=progress(observer),
        callbacks=options.reporting.of_phase("student"),
    )
    if options.lora is not None:
        model.save_pretrained(folder / ADAPTER)
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record: dict[str, Any] = {key: getattr(outcome, key) for key in ("history", "best", "steps", "seconds")}
    write_json_atomic(folder / "facts.json", {"stages": [{"name": "distill", **record}], "method": options.method})
    shutil.rmtree(folder / "training")
    best = outcome.best.get("eval_perplexity")
    shown = "" if best is None else f", perplexity {best:.2f} on the validation split"
    return [f"student: {counted(outcome.steps, 'step')} in {outcome.seconds:.0f} s{shown}"]
