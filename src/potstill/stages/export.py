"""Stage `export`: the student in the target's format, checked, then quantized by measurement."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.contracts.way import OFF
from potstill.data.collate import NOT_INPUTS
from potstill.data.encoded import EncodedRows
from potstill.evaluate.quality import predict
from potstill.exports.catalogue import ways_of
from potstill.exports.choose import Choice, choose
from potstill.exports.delivery import deliver
from potstill.exports.runtimes import TorchRunner
from potstill.ground.devices import placed
from potstill.ground.disk import write_json_atomic
from potstill.targets import target_named

if TYPE_CHECKING:
    from potstill.contracts.runner import Runner
    from potstill.stages.context import Run

LATENCY_ROWS = 48
CALIBRATION_BATCH = 8


def export_student(run: Run, folder: Path) -> Sequence[str]:
    """Export the student, try the ways of serving it, and keep the fp32 file and what was chosen."""
    from potstill.stages.student import load_student

    student, processor = load_student(run, run.folder / "student")
    target, mode = target_named(run.recipe.target), run.recipe.quantize.mode
    ways = () if mode == OFF else ways_of(mode, target)
    facts, notes = deliver(
        student,
        folder,
        target=target,
        example_inputs=run.task.example_inputs(student, batch=2),
        dynamic_axes=run.task.dynamic_axes(student),
        ways=ways,
        choosing=_choosing(run, len(ways), run.task.collator(processor)) if ways else None,
    )
    write_json_atomic(folder / "facts.json", facts)
    return notes


def _choosing(run: Run, num_ways: int, collator: Callable[..., Mapping[str, Any]]) -> Callable[..., Choice]:
    """`choose` with the run's rows and metric."""
    validation, train, asked = run.student_rows("validation"), run.student_rows("train"), run.recipe.quantize
    teacher = _teacher_answers(run) if run.answers.from_labels is None else None
    tried: list[str] = []

    def metric_of(runner: Runner) -> float:
        found = predict(runner, validation, collator)
        return float(run.task.quality(found.logits, found.labels, teacher=teacher)[run.metric])

    def on_try(name: str) -> None:
        tried.append(name)
        run.observer.stage_advanced(len(tried), num_ways, {})

    return functools.partial(
        choose,
        metric_of=metric_of,
        calibration=batches(train, collator, asked.calibration_rows, CALIBRATION_BATCH, run.recipe.seed),
        latency_inputs=batches(validation, collator, LATENCY_ROWS, 1, run.recipe.seed),
        max_drop=asked.max_drop,
        on_try=on_try,
    )


def _teacher_answers(run: Run) -> np.ndarray:
    """What the teacher answers on the validation rows, for measures against it."""
    with placed(run.teacher.model) as teacher:
        return predict(TorchRunner(teacher), run.teacher_rows("validation"), run.task.collator(run.teacher.processor)).logits


def batches(
    rows: EncodedRows, collator: Callable[..., Any], num_rows: int, batch_size: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Batches of rows drawn by the seed, as arrays, without labels and row ids.

    Args:
        rows: Where to draw from.
        collator: Makes a batch.
        num_rows: Rows in all, at most.
        batch_size: Rows per batch; the last one may have fewer.
        seed: Of the draw.
    """
    drawn = np.random.default_rng(seed).permutation(len(rows))[:num_rows]
    made = []
    for start in range(0, len(drawn), batch_size):
        batch = collator(rows.__getitems__(drawn[start : start + batch_size].tolist()))
        made.append({name: value.numpy() for name, value in batch.items() if name not in NOT_INPUTS})
    return made
