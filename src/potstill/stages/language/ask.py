"""Stage `cache` of a language model: the teacher's distributions over every learned token, kept on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.ground.devices import compute_device, placed
from potstill.ground.disk import read_json, write_json_atomic
from potstill.knowledge.tokens.cache import Identity, TokenCache, write_token_cache
from potstill.knowledge.tokens.schemes import Dense, Sampled, Scheme, TopK
from potstill.modalities.language.documents import Documents
from potstill.modalities.language.packing import PackedRows
from potstill.models.frozen import fingerprint_of, fingerprint_of_processor
from potstill.models.language_model import LanguageModel
from potstill.planning.learning import progress
from potstill.recipe.language import LanguageOptions
from potstill.report.numbers import size

SHOWN_WINDOWS = 2  # that show how long the teacher takes


@dataclass(frozen=True)
class AskOptions:
    """What keeping distributions depends on.

    Args:
        is_wanted: Whether the student learns from kept distributions.
    """

    language: LanguageOptions
    seed: int
    is_wanted: bool


def scheme_of(options: LanguageOptions) -> Scheme:
    """What is kept of each distribution."""
    if options.scheme == Sampled.name:
        return Sampled(options.samples, options.temperature)
    return TopK(options.entries, options.temperature, options.tail) if options.scheme == TopK.name else Dense(options.temperature)


def ask(given: Given, options: AskOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Ask the teacher once for every training document, and say before what that costs."""
    teacher: LanguageModel = given.teacher
    documents: Documents = given.rows.documents("train")
    facts, collator, scheme = given.rows.facts, given.rows.collator, scheme_of(options.language)

    def windows(span: Any) -> PackedRows:
        return PackedRows(documents, facts["window"], is_packed=facts["packing"], only=list(span))

    identity = identity_of(teacher, documents)
    with placed(teacher.decoder.model):
        seconds = _seconds_per_token(teacher, windows(range(min(len(documents), SHOWN_WINDOWS))), collator)
        num_tokens = int(documents.learned.sum())
        cost = size(round(num_tokens * scheme.bytes_per_token(identity.vocab_size)))
        observer.note(
            f"the distributions of {num_tokens:,} tokens take about {cost} and {_time(len(documents.tokens) * seconds)},"
            f" and every further pass over the data saves {_time(len(documents.tokens) * seconds)} of the teacher's time"
        )
        found = write_token_cache(
            teacher.decoder,
            documents,
            folder / "tokens",
            scheme=scheme,
            identity=identity,
            windows=windows,
            collator=collator,
            seed=options.seed,
            on_progress=progress(observer),
        )
    write_json_atomic(folder / "facts.json", found)
    return [f"kept {found['tokens']:,} tokens in {found['bytes_per_token']:.1f} bytes each"]


def open_answers(folder: Path, given: Given) -> TokenCache | None:
    """The distributions that were kept; None where the teacher is asked live."""
    return TokenCache(folder / "tokens") if read_json(folder / "facts.json") is not None else None


def identity_of(teacher: LanguageModel, documents: Documents) -> Identity:
    """What kept distributions belong to."""
    tokenizer = f"{fingerprint_of_processor(teacher.tokenizer)}:{teacher.tokenizer.chat_template or ''}"
    decoder = teacher.decoder
    vocab_size = min(len(teacher.tokenizer), len(decoder.head.weight))
    return Identity(fingerprint_of(decoder.model), tokenizer, documents.fingerprint, vocab_size)


def _seconds_per_token(teacher: LanguageModel, rows: PackedRows, collator: Any) -> float:
    batch = {name: value.to(compute_device()) for name, value in collator([rows[0]]).items()}
    teacher.decoder.hidden(batch)
    started = time.perf_counter()
    teacher.decoder.hidden(batch)
    return (time.perf_counter() - started) / batch["input_ids"].numel()


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
