"""Models that are measured beside teacher and student: further teachers, all teachers together, the models of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from potstill.evaluate.cost import cost
from potstill.evaluate.quality import Predictions, predict
from potstill.exports.runtimes import TorchRunner, num_cores
from potstill.ground.devices import placed
from potstill.stages.chain import link, links
from potstill.stages.measured_model import TOGETHER, Subject
from potstill.stages.several_teachers import mixed_answers, numbers, other_teacher

if TYPE_CHECKING:
    from potstill.data.encoded import EncodedRows
    from potstill.stages.context import Run


def further_subjects(run: Run, teacher: Subject, student: Subject) -> dict[str, Subject]:
    """Name → subject; they are not timed, so they have no runners.

    Args:
        run: The run.
        teacher: The first teacher.
        student: The last of a chain.
    """
    found: dict[str, Subject] = {}
    for number in numbers(run.recipe):
        other = other_teacher(run, number)
        found[f"teacher-{number}"] = _untimed(other, other.teacher.model, other.teacher.processor, other.teacher_rows("test"))
    if found:
        teachers = [teacher, *found.values()]
        found[TOGETHER] = _joint(teachers, mixed_answers(run, [_in_order_of(one.answers, teacher.answers) for one in teachers]))
    found |= (chained := _of_chain(run))
    if run.recipe.distill.chain.ensemble and chained:
        generations = [*chained.values(), student]
        logits = [log_softmax(_in_order_of(one.answers, student.answers), axis=-1) for one in generations]
        found["generations"] = _joint(generations, logsumexp(logits, axis=0) - np.log(len(logits)))
    return found


def _of_chain(run: Run) -> dict[str, Subject]:
    """Every model that was trained before the student."""
    found = {}
    for name in links(run):
        seen, model, processor = link(run, name)
        found[name] = _untimed(seen, model, processor, seen.student_rows("test"))
    return found


def _untimed(run: Run, model: Any, processor: Any, rows: EncodedRows) -> Subject:
    tokens = int(np.median(rows.lengths)) if run.task.modality == "text" else None
    if run.task.modality == "image":
        height, width = rows[0]["pixel_values"].shape[-2:]
        run.task.image_size = (int(height), int(width))  # type: ignore[attr-defined]
    spent = cost(model, run.task.example_inputs(model, batch=1, tokens=tokens))
    with placed(model):
        answers = predict(TorchRunner(model, threads=num_cores()), rows, run.task.collator(processor))
    return Subject(answers, {}, spent.parameters, spent.bytes, spent.flops, {"safetensors": spent.bytes}, "teacher")


def _joint(models: Sequence[Subject], logits: np.ndarray) -> Subject:
    """Several models asked together: their costs add up."""
    first = models[0]
    parameters, size, flops = (
        sum(getattr(model, name) or 0 for model in models) or None for name in ("parameters", "bytes", "flops")
    )
    answers = Predictions(logits.astype(np.float32), first.answers.labels, first.answers.row_ids)
    return Subject(answers, {}, parameters, size or 0, flops, {"safetensors": size or 0}, "teacher")


def _in_order_of(answers: Predictions, first: Predictions) -> np.ndarray:
    """The logits in the order of the rows of `first`."""
    place = {int(row_id): index for index, row_id in enumerate(answers.row_ids)}
    return answers.logits[[place[int(row_id)] for row_id in first.row_ids]]
