"""Mean states of the teacher's blocks, kept with its answers: a student that was cut out of it can match them at no cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.ground.disk import free_bytes
from potstill.knowledge.teachers import cached_answers, live_teacher
from potstill.methods.catalogue import traits
from potstill.methods.contract import ModelFacts
from potstill.models.party import Teacher
from potstill.planning.forecast import Forecast
from potstill.planning.phases import method_of

MOST_BLOCKS = 6
BYTES_EACH = np.dtype(np.float16).itemsize  # of one number of a state
BUDGET_BYTES = 1 << 30
FREE_SHARE = 0.1  # of what the disk has left
SPREAD_ROWS = 2048
LARGEST = 6e3  # of a state that is kept in float16, whose largest number is 65,504


def wants_states(foreseen: Forecast | None) -> bool:
    """Whether the method of a run reads mean states: one teacher, and a student of its width cut out of it."""
    if foreseen is None:
        return False
    recipe, student, teacher = foreseen.run.recipe, foreseen.student, foreseen.teacher
    is_asked = recipe.distill.losses is None and traits(method_of(recipe, foreseen.run.task)).reads_states
    is_cut = recipe.student.model is None and recipe.student.architecture is None
    if not is_asked or not is_cut or not foreseen.run.task.modality.can_augment or recipe.tasks or len(recipe.teacher.all) > 1:
        return False
    return student.width == teacher.width and has_states(teacher)


def has_states(teacher: ModelFacts) -> bool:
    """Whether a teacher has blocks whose mean states say something of a whole row."""
    return not teacher.has_maps and teacher.heads is not None


def states_to_keep(teacher: ModelFacts, num_rows: int, folder: Path) -> tuple[str, ...]:
    """Need names of the states worth keeping of some rows: of every block, or of some evenly spread, the last one among them.

    Fewer where they would take more than a gigabyte, or a tenth of what the disk has left; none where one would.
    """
    affordable = int(min(BUDGET_BYTES, FREE_SHARE * free_bytes(folder)) // max(1, num_rows * teacher.width * BYTES_EACH))
    return tuple(f"mean:{block}" for block in spread_blocks(teacher.layers, min(MOST_BLOCKS, affordable)))


def bytes_of_states(foreseen: Forecast | None, num_rows: int, folder: Path) -> int:
    """What the states that a run keeps take on disk in half precision."""
    if foreseen is None or not wants_states(foreseen):
        return 0
    return len(states_to_keep(foreseen.teacher, num_rows, folder)) * num_rows * foreseen.teacher.width * BYTES_EACH


def spread_blocks(layers: int, most: int) -> tuple[int, ...]:
    """At most `most` of the blocks 1 to `layers`, evenly spread, the last one among them.

    Example:
        >>> spread_blocks(12, 6), spread_blocks(6, 6), spread_blocks(12, 5)
        ((2, 4, 6, 8, 10, 12), (1, 2, 3, 4, 5, 6), (3, 6, 9, 12))
    """
    if most < 1:
        return ()
    step = -(-layers // most)
    return tuple(range(layers, 0, -step))[::-1]


def dtype_of(states: Sequence[Tensor]) -> str:
    """What states like these are kept in: half the bytes, unless a teacher's are so large that they would not fit."""
    return "float32" if any(float(state.abs().max()) > LARGEST for state in states) else "float16"


def with_states(facts: ModelFacts, teachers: Sequence[Teacher], seed: int) -> ModelFacts:
    """Facts of the teacher with the states that are kept with its answers, and their variance over training rows."""
    first = teachers[0]
    if len(teachers) > 1 or first.cache is None or first.rows.number is not None:
        return facts
    if "states" not in first.measured:
        first.measured["states"] = _measure(first, seed)
    return replace(facts, states=first.measured["states"])


def _measure(teacher: Teacher, seed: int) -> tuple[tuple[str, float], ...]:
    source: Any = cached_answers(teacher, live_teacher(teacher).fingerprint)
    needs = [need for need in source.manifest.needs if need.startswith("mean:")]
    row_ids = teacher.encoded("train").row_ids
    drawn = np.random.default_rng(seed).permutation(len(row_ids))[:SPREAD_ROWS]
    if not needs or len(drawn) < 2:
        return ()
    states = source.signal({"row_id": torch.from_numpy(row_ids[np.sort(drawn)])}, needs).taps
    spreads = {need: float(states[need].var(dim=0).mean()) for need in needs}
    return tuple((need, spread) for need, spread in spreads.items() if spread > 0)
