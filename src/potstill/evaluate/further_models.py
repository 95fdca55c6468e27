"""Models that are measured with teacher and student: further teachers, all teachers together, the models of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from potstill.answers.units import FLOOR
from potstill.contracts.answers import Predictions
from potstill.contracts.party import Party
from potstill.data.encoded import EncodedRows
from potstill.evaluate.cost import Cost, cost
from potstill.evaluate.measured_model import TOGETHER, Bench, Subject
from potstill.evaluate.quality import predict
from potstill.exports.runtimes import TorchRunner, num_cores
from potstill.ground.devices import placed
from potstill.models.party import Teacher


def further_subjects(bench: Bench, teacher: Subject, student: Subject) -> dict[str, Subject]:
    """Name → subject; they are not timed, so they have no runners."""
    found: dict[str, Subject] = {}
    if not bench.options.tasks:
        found = {f"teacher-{number}": _untimed(one) for number, one in enumerate(bench.teachers[1:], start=2)}
    if found:
        teachers = [teacher, *found.values()]
        logits = [_in_order_of(one.answers, teacher.answers) for one in teachers]
        found[TOGETHER] = _joint(teachers, bench.options.combination.mix(logits, bench.learned_shares))
    found |= (chained := {name: _untimed(model) for name, model in bench.chain.items()})
    if bench.options.ensemble and chained:
        generations = [*chained.values(), student]
        logs = [log_softmax(_in_order_of(one.answers, student.answers), axis=-1) for one in generations]
        found["generations"] = _joint(generations, logsumexp(logs, axis=0) - np.log(len(logs)))
    return found


def example_of(party: Party, model: Any, *, batch: int, tokens: int | None = None) -> Any:
    """Inputs as the model reads them; parties may read images of other sizes."""
    task = party.rows.task
    task.modality.see(party.encoded("test"))
    return task.example_inputs(model, batch=batch, tokens=tokens)


def cost_of(party: Party) -> Cost:
    """Cost of its model for one row of median length."""
    middle = party.rows.task.modality.middle(party.encoded("test"))
    return cost(party.model, example_of(party, party.model, batch=1, tokens=middle))


def _untimed(party: Party) -> Subject:
    model = party.model
    spent = cost_of(party)
    with placed(model):
        answers = predict(TorchRunner(model, threads=num_cores()), party.encoded("test"), party.collator, party.rows.answers)
    return Subject(answers, {}, spent.parameters, spent.bytes, spent.flops, {"safetensors": spent.bytes}, party)


def joint_answers(teachers: Sequence[Teacher], split: str, num_classes: int) -> Predictions:
    """What every row's own teacher answers on a split, in the order of the rows."""
    parts = [own_answers(one, one.encoded(split), num_classes) for one in teachers if one.rows.has(split)]
    logits, labels, row_ids = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("logits", "labels", "row_ids")
    )
    return Predictions(logits, labels, row_ids)


def own_answers(teacher: Teacher, rows: EncodedRows, num_classes: int) -> Predictions:
    """What a task's teacher answers, at the places of its classes; other classes cannot be chosen."""
    start, stop = teacher.rows.block
    with placed(teacher.model) as model:
        found = predict(TorchRunner(model), rows, teacher.collator, teacher.rows.answers)
    logits = np.full((len(found.logits), num_classes), FLOOR, np.float32)
    logits[:, start:stop] = found.logits
    return Predictions(logits, np.where(found.labels < 0, found.labels, found.labels + start), found.row_ids)


def _joint(models: Sequence[Subject], logits: np.ndarray) -> Subject:
    """Several models asked together: their costs add up."""
    first = models[0]
    parameters, size, flops = (
        sum(getattr(model, name) or 0 for model in models) or None for name in ("parameters", "bytes", "flops")
    )
    answers = Predictions(logits.astype(np.float32), first.answers.labels, first.answers.row_ids)
    return Subject(answers, {}, parameters, size or 0, flops, {"safetensors": size or 0}, first.party)


def _in_order_of(answers: Predictions, first: Predictions) -> np.ndarray:
    """The logits in the order of the rows of `first`."""
    place = {int(row_id): index for index, row_id in enumerate(answers.row_ids)}
    return answers.logits[[place[int(row_id)] for row_id in first.row_ids]]
