"""Stages `teach` and `cache`: the teacher's head trained where it is new, its answers kept on disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.ground.devices import compute_device
from potstill.ground.disk import write_json_atomic
from potstill.knowledge.cache import estimate, measure_seconds_per_row, write_cache
from potstill.knowledge.live import LiveTeacher
from potstill.models.frozen import fingerprint_of_processor, freeze
from potstill.models.taps import TapReader, head_of
from potstill.planning.phases import asks_teacher
from potstill.report.numbers import size
from potstill.stages.cached_block_means import dtype_of, states_to_keep
from potstill.stages.run_facts import passes, run_facts
from potstill.stages.teacher_snapshots import keep_anchors
from potstill.stages.user_inputs import load_given
from potstill.training.phase_settings import PhaseSettings, usual_evaluations
from potstill.training.phases import train_phase
from potstill.training.precision import rounding_note
from potstill.training.route import RouteKeeper

if TYPE_CHECKING:
    from torch import Tensor

    from potstill.data.encoded import EncodedRows
    from potstill.stages.context import Run

PRETRAINED_RATE, SCRATCH_RATE = 5e-5, 1e-3
NEW_HEAD_MULTIPLE = 10.0
CACHE_BATCH = 64
SHOWN_ROWS = 16  # that tell how large a teacher's states are


def teach(run: Run, folder: Path) -> Sequence[str]:
    """Train the teacher on the labelled rows and keep the best by validation."""
    loaded = load_given(run, run.label_names)
    recipe, model = run.recipe.teacher, loaded.model
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    head = head_of(model)
    if loaded.head_is_new and hasattr(run.task, "start_head") and head is not None:
        run.task.start_head(head, run.teacher_rows("train").labels)
    settings = PhaseSettings(
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate or (SCRATCH_RATE if recipe.from_scratch else PRETRAINED_RATE),
        batch_size=recipe.batch_size,
        seed=run.recipe.seed,
        precision=run.recipe.precision,
        select="metric",
        head_multiple=NEW_HEAD_MULTIPLE if loaded.head_is_new and not recipe.from_scratch else 1.0,
        evaluations=None if recipe.anchors is None else max(recipe.anchors + 1, usual_evaluations(recipe.epochs)),
    )
    outcome = train_phase(
        model,
        rows=run.teacher_rows("train"),
        eval_rows=run.teacher_rows("validation"),
        collator=run.task.collator(loaded.processor),
        folder=folder / "training",
        terms=[run.answers.from_labels or {}],
        task=run.task,
        settings=settings,
        on_progress=run.progress(),
        callbacks=[RouteKeeper(folder / "training" / "route")] if recipe.anchors else [],
    )
    freeze(model)
    model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    if recipe.anchors:
        keep_anchors(folder / "training" / "route", folder, recipe.anchors, end=outcome.best.get("step"))
    metric = outcome.best.get(f"eval_{run.metric}")
    keys = ("history", "best", "seconds", "precision")
    write_json_atomic(folder / "facts.json", {key: getattr(outcome, key) for key in keys})
    shutil.rmtree(folder / "training")
    reached = None if metric is None else f"teacher: {run.metric} {metric:.4f} on validation"
    return [line for line in (reached, rounding_note(outcome.precision)) if line]


def cache_answers(run: Run, folder: Path, *, keeps_states: bool = True) -> Sequence[str]:
    """Ask the teacher once for every row and keep its logits, and the states that the run's method reads.

    Args:
        run: The run as this teacher sees it.
        folder: Of the stage.
        keeps_states: Whether a student may be cut out of this teacher.
    """
    teacher = run.teacher
    names = [name for name in ("train", "validation", "test", "unlabelled", "augmented") if run.has(name)]
    rows = run.teacher_rows(*names)
    source = LiveTeacher(teacher.model, TapReader(), device=compute_device())
    collator = run.task.collator(teacher.processor)
    states = states_to_keep(run, len(rows)) if keeps_states else ()
    seconds = measure_seconds_per_row(source, rows, collator, sample=min(64, max(8, len(rows) // 32)))
    cost = estimate(len(rows), run.num_answers, passes=passes(run), seconds_per_row=seconds)
    run.observer.note(
        f"the answers to {len(rows):,} rows take {size(cost.bytes)} and about {cost.seconds_to_write:.0f} s,"
        f" and save about {cost.seconds_saved:.0f} s"
    )
    shown = _shown(source, rows, collator, states)
    dtype = dtype_of(shown)
    if states:
        taken = len(rows) * sum(state.shape[-1] for state in shown) * np.dtype(dtype).itemsize
        run.observer.note(f"mean states of {len(states)} of the teacher's blocks are kept beside them in {size(taken)}")
    write_cache(
        source,
        rows,
        collator,
        folder / "logits",
        needs=("logits", *states),
        tap_dtype=dtype,
        batch_size=CACHE_BATCH,
        processor_fingerprint=fingerprint_of_processor(teacher.processor),
        progress=run.progress(),
    )
    return []


def wants_cache(run: Run) -> bool:
    """Whether the answers are kept: always, never, or where the losses read all rows and the evaluations some of them again."""
    mode = run.recipe.distill.cache
    return mode == "always" or (mode == "auto" and passes(run) >= 1 and asks_teacher(run_facts(run)))


def _shown(source: LiveTeacher, rows: EncodedRows, collator: Any, states: Sequence[str]) -> list[Tensor]:
    """These states of a few rows, [rows, D] each."""
    few = [rows[index] for index in range(min(SHOWN_ROWS, len(rows)))]
    return list(source.signal(collator(few), states).taps.values()) if states else []
