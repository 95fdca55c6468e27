"""`layers: auto`: which block of the teacher each block of the student learns from, measured on training rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.data.paired import PairedCollator, PairedRows
from potstill.errors import DataError, NeedsError
from potstill.ground.devices import placed
from potstill.methods.contract import ModelFacts, Phase
from potstill.methods.layers import match_blocks, pair_layers
from potstill.stages.teacher_sources import has_own_tokens, training_collator

if TYPE_CHECKING:
    from potstill.data.encoded import EncodedRows
    from potstill.stages.context import Run

logger = logging.getLogger(__name__)
ROWS, BATCH = 256, 32


@dataclass(frozen=True)
class Matched:
    """Pairs (student block, teacher block), 1-based, and how they were found."""

    pairs: tuple[tuple[int, int], ...]
    reason: str

    def __str__(self) -> str:
        shown = ", ".join(f"{own} from {other}" for own, other in self.pairs)
        return f"blocks learn {shown} ({self.reason})"


def reads_pairs(run: Run, stages: Sequence[Phase]) -> bool:
    """Whether `layers: auto` decides something in these stages."""
    return run.recipe.distill.layers == "auto" and any(term.pairs_blocks() for stage in stages for term in stage.terms)


def matched_facts(run: Run, student: Any, facts: ModelFacts, teacher: ModelFacts) -> ModelFacts:
    """The student's facts with the pairs of blocks that `auto` takes, found once and told.

    Args:
        run: The run.
        student: As it is before the first stage of training.
        facts: Of the student.
        teacher: Facts of the teacher.
    """
    key, folder = f"matched blocks {facts.layers}", "work/student"
    is_new = key not in run._opened
    found: Matched = run._once(key, folder, lambda: _match(run, student, facts, teacher))
    if is_new:
        run.observer.note(str(found))
    return replace(facts, matched=found.pairs)


def _match(run: Run, student: Any, facts: ModelFacts, teacher: ModelFacts) -> Matched:
    expected = tuple(pair_layers("auto", replace(facts, matched=()), teacher))
    if facts.has_maps and teacher.has_maps and set(facts.strides) & set(teacher.strides):
        return Matched(expected, "stages with grids of one size")
    named = "blocks that the student was cut from" if facts.kept_layers else "evenly spread"
    if run.recipe.student.architecture is not None:
        return Matched(expected, f"{named}, the student starts from random weights")
    try:
        similarity = _similarity(run, student)
    except (NeedsError, DataError) as error:
        logger.info("blocks are not compared: %s", error)
        return Matched(expected, named)
    pairs, best, known = match_blocks(similarity, expected)
    if tuple(pairs) == expected:
        return Matched(expected, f"{named}, CKA {known:.2f}")
    return Matched(tuple(pairs), f"most alike on {ROWS} rows, CKA {best:.2f}; {named} {known:.2f}")


def _similarity(run: Run, student: Any) -> Any:
    from potstill.methods.similarity import block_similarity
    from potstill.models.taps import TapReader

    with placed(student.eval()) as ours, placed(run.teacher.model) as theirs:
        return block_similarity(ours, theirs, training_batches(run, student), TapReader().read, max_rows=ROWS)


def training_batches(run: Run, student: Any) -> list[Any]:
    """A few batches of training rows, each side in its own tokens where they differ."""
    from potstill.stages.student import load_student

    _, processor = load_student(run, run.folder / "work/student/model")
    rows: EncodedRows = run.student_rows("train")
    collator = training_collator(run, processor)
    if has_own_tokens(run):
        collator = PairedCollator(collator, run.task.collator(run.teacher.processor))
        rows = PairedRows(rows, run.teacher_rows("train"))
    drawn = np.random.default_rng(run.recipe.seed).permutation(len(rows))[:ROWS]
    return [collator(rows.__getitems__(drawn[start : start + BATCH].tolist())) for start in range(0, len(drawn), BATCH)]
