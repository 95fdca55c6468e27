"""Stage `cache`: a teacher's answers to all rows, kept on disk; a further teacher also reads the augmented rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.data.run_rows import AUGMENTED, Rows
from potstill.ground.counted import counted
from potstill.ground.devices import compute_device
from potstill.knowledge.cache import estimate, measure_seconds_per_row, write_cache
from potstill.knowledge.live import LiveTeacher
from potstill.methods.contract import facts_of
from potstill.models.frozen import fingerprint_of_processor
from potstill.models.party import Teacher
from potstill.models.taps import TapReader
from potstill.planning.block_means import dtype_of, states_to_keep
from potstill.planning.learning import progress
from potstill.report.numbers import size

CACHE_BATCH = 64
SHOWN_ROWS = 16  # that show how large a teacher's states are


@dataclass(frozen=True)
class AskOptions:
    """What asking a teacher reads of a recipe.

    Args:
        keeps_states: Whether mean states of its blocks are kept with the answers, as far as there is room.
    """

    max_tokens: int | None
    keeps_states: bool = False
    is_first: bool = True
    keeps_answers: bool = True
    passes: Callable[[], float] = field(default=lambda: 1.0, compare=False)


def ask(given: Given, options: AskOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Ask a teacher once for every row and keep its answers, and the states that a student cut out of it can match."""
    rows: Rows = given.rows
    teacher: Teacher = given.teacher
    own = folder / AUGMENTED
    if not options.is_first and rows.has(AUGMENTED):
        rows.task.encode(rows.split(AUGMENTED), teacher.processor, own, max_tokens=options.max_tokens)
    if options.keeps_answers:
        asked = teacher.with_answers(rows, rows.places.get(AUGMENTED, own) if options.is_first else own, folder / "none")
        _keep_answers(asked, options, folder, observer)
    return []


def open_answers(folder: Path, given: Given, *, is_first: bool = True) -> Teacher:
    """The teacher with the augmented rows in its tokens, and its answers where they were kept."""
    teacher: Teacher = given.teacher
    rows: Rows = given.rows
    own = folder / AUGMENTED
    return teacher.with_answers(rows, rows.places.get(AUGMENTED, own) if is_first else own, folder / "logits")


def _keep_answers(teacher: Teacher, options: AskOptions, folder: Path, observer: Observer) -> None:
    rows = teacher.encoded(*teacher.rows.names)
    source = LiveTeacher(teacher.model, TapReader(), device=compute_device())
    states = states_to_keep(facts_of(teacher.model), len(rows), folder) if options.keeps_states else ()
    seconds = measure_seconds_per_row(source, rows, teacher.collator, sample=min(64, max(8, len(rows) // 32)))
    cost = estimate(len(rows), teacher.num_answers, passes=options.passes(), seconds_per_row=seconds)
    observer.note(
        f"the answers to {counted(len(rows), 'row')} take {size(cost.bytes)} and about {cost.seconds_to_write:.0f} s,"
        f" and save about {cost.seconds_saved:.0f} s"
    )
    observer.stage_step(f"{teacher.name} answers {counted(len(rows), 'row')}")
    shown = _shown(source, teacher, states)
    dtype = dtype_of(shown)
    if states:
        taken = len(rows) * sum(state.shape[-1] for state in shown) * np.dtype(dtype).itemsize
        observer.note(f"mean states of {len(states)} of the teacher's blocks are kept with them in {size(taken)}")
    write_cache(
        source,
        rows,
        teacher.collator,
        folder / "logits",
        needs=("logits", *states),
        tap_dtype=dtype,
        batch_size=CACHE_BATCH,
        processor_fingerprint=fingerprint_of_processor(teacher.processor),
        progress=progress(observer),
    )


def _shown(source: LiveTeacher, teacher: Teacher, states: Sequence[str]) -> list[Tensor]:
    """These states of a few rows, [rows, D] each."""
    if not states:
        return []
    rows = teacher.encoded(*teacher.rows.names)
    few = [rows[index] for index in range(min(SHOWN_ROWS, len(rows)))]
    return list(source.signal(teacher.collator(few), states).taps.values())
