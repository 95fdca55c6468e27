"""Stage `export`: the student in the target's format, checked, then quantized by measurement."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from potstill.contracts.runner import Runner
from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
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
from potstill.models.party import Student, Teacher
from potstill.recipe.model import QuantizeRecipe
from potstill.targets import target_named

LATENCY_ROWS = 48
CALIBRATION_BATCH = 8


@dataclass(frozen=True)
class ExportOptions:
    """What exporting reads of a recipe."""

    quantize: QuantizeRecipe
    target: str
    seed: int


def export_student(given: Given, options: ExportOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Export the student, try the ways of serving it, and keep the fp32 file and what was chosen."""
    student: Student = given.student
    model, task, target = student.load()[0], student.rows.task, target_named(options.target)
    ways = () if options.quantize.mode == OFF else ways_of(options.quantize.mode, target)
    facts, notes = deliver(
        model,
        folder,
        target=target,
        example_inputs=task.example_inputs(model, batch=2),
        dynamic_axes=task.dynamic_axes(model),
        ways=ways,
        choosing=_choosing(student, given, options, len(ways), observer) if ways else None,
    )
    write_json_atomic(folder / "facts.json", facts)
    return notes


def _choosing(student: Student, given: Given, options: ExportOptions, num_ways: int, observer: Observer) -> Callable[..., Choice]:
    """`choose` with the student's rows and metric."""
    validation, train = student.encoded("validation"), student.encoded("train")
    rows, collator, asked = student.rows, student.collator, options.quantize
    teacher = _teacher_answers(given.teacher) if rows.answers.from_labels is None else None
    tried: list[str] = []

    def metric_of(runner: Runner) -> float:
        found = predict(runner, validation, collator, rows.answers)
        return float(rows.task.quality(found.logits, found.labels, teacher=teacher)[rows.metric])

    def on_try(name: str) -> None:
        observer.stage_step(f"make and measure {name}")
        observer.stage_advanced(len(tried), num_ways, {})
        tried.append(name)

    return functools.partial(
        choose,
        metric_of=metric_of,
        calibration=batches(train, collator, asked.calibration_rows, CALIBRATION_BATCH, options.seed),
        latency_inputs=batches(validation, collator, LATENCY_ROWS, 1, options.seed),
        max_drop=asked.max_drop,
        on_try=on_try,
    )


def _teacher_answers(teacher: Teacher) -> np.ndarray:
    """What the teacher answers on the validation rows, for measures against it."""
    with placed(teacher.model) as model:
        return predict(TorchRunner(model), teacher.encoded("validation"), teacher.collator, teacher.rows.answers).logits


def batches(
    rows: EncodedRows, collator: Callable[..., Any], num_rows: int, batch_size: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Batches of rows drawn by the seed, as arrays, without labels and row ids."""
    drawn = np.random.default_rng(seed).permutation(len(rows))[:num_rows]
    made = []
    for start in range(0, len(drawn), batch_size):
        batch = collator(rows.__getitems__(drawn[start : start + batch_size].tolist()))
        made.append({name: value.numpy() for name, value in batch.items() if name not in NOT_INPUTS})
    return made
