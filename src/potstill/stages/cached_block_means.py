"""Mean states of the teacher's blocks, kept beside its answers: what a student that was cut out of it can match at no cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from potstill.ground.disk import free_bytes
from potstill.methods.contract import ModelFacts
from potstill.stages.rows import can_augment
from potstill.stages.run_facts import forecast_of
from potstill.stages.teacher_sources import cached_answers, live_teacher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from potstill.stages.context import Run

MOST_BLOCKS = 6
BYTES_EACH = np.dtype(np.float16).itemsize  # of one number of a state
BUDGET_BYTES = 1 << 30
FREE_SHARE = 0.1  # of what the disk has left
SPREAD_ROWS = 2048
LARGEST = 6e3  # of a state that is kept in float16, whose largest number is 65,504


def wants_states(run: Run) -> bool:
    """Whether the method of this run reads mean states: one teacher, and a student of its width cut out of it."""
    recipe = run.recipe
    is_asked = recipe.distill.method in ("auto", "augmented_kd") and recipe.distill.losses is None and can_augment(run)
    is_cut = recipe.student.model is None and recipe.student.architecture is None
    if not is_asked or not is_cut or recipe.tasks or len(recipe.teacher.all) > 1:
        return False
    foreseen = forecast_of(run)
    if foreseen is None:
        return False
    student, teacher = foreseen.student, foreseen.teacher
    return student.width == teacher.width and not teacher.has_maps and teacher.heads is not None


def states_to_keep(run: Run, num_rows: int) -> tuple[str, ...]:
    """Need names of the states worth keeping of so many rows: of every block, or of some evenly spread, the last one among them.

    Fewer where they would take more than a gigabyte, or a tenth of what the disk has left; none where one would.
    """
    foreseen = forecast_of(run) if wants_states(run) else None
    if foreseen is None:
        return ()
    affordable = int(
        min(BUDGET_BYTES, FREE_SHARE * free_bytes(run.folder)) // max(1, num_rows * foreseen.teacher.width * BYTES_EACH)
    )
    return tuple(f"mean:{block}" for block in spread_blocks(foreseen.teacher.layers, min(MOST_BLOCKS, affordable)))


def bytes_of_states(run: Run, num_rows: int) -> int:
    """What those states take on disk in half precision."""
    foreseen = forecast_of(run)
    return 0 if foreseen is None else len(states_to_keep(run, num_rows)) * num_rows * foreseen.teacher.width * BYTES_EACH


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


def with_states(run: Run, teacher: ModelFacts) -> ModelFacts:
    """Facts of the teacher with the states that the run's cache holds, and their variance over training rows.

    Args:
        run: The run, past its cache.
        teacher: Facts of its teacher.
    """
    if not wants_states(run) or not (run.folder / run.places.cache / "logits").is_dir():
        return teacher
    return replace(teacher, states=run._once("states", run.places.cache, lambda: _measure(run)))


def _measure(run: Run) -> tuple[tuple[str, float], ...]:
    source: Any = cached_answers(run, live_teacher(run).fingerprint)
    needs = [need for need in source.manifest.needs if need.startswith("mean:")]
    row_ids = run.teacher_rows("train").row_ids
    drawn = np.random.default_rng(run.recipe.seed).permutation(len(row_ids))[:SPREAD_ROWS]
    if not needs or len(drawn) < 2:
        return ()
    states = source.signal({"row_id": torch.from_numpy(row_ids[np.sort(drawn)])}, needs).taps
    spreads = {need: float(states[need].var(dim=0).mean()) for need in needs}
    return tuple((need, spread) for need, spread in spreads.items() if spread > 0)
