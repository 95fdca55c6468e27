"""Evaluation of the student while it trains: task metric, distillation loss, agreement with the teacher.

Shapes: N rows, B batch, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.trainer_utils import EvalPrediction

from potstill.answers.units import FLOOR, pooled
from potstill.answers.units import joined as joined_batches
from potstill.contracts.signal import TeacherSignal
from potstill.errors import CacheError, TrainingError
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses.contract import IGNORED_LABEL, StudentView
from potstill.losses.response import logit_mask
from potstill.training.objective import Objective

logger = logging.getLogger(__name__)
Student = Callable[[Mapping[str, Any]], StudentView]


class Wanted(NamedTuple):
    """What `compute_metrics` is given besides answers and labels.

    Args:
        main_input: Name of the batch's main input.
        include: "inputs" for that input, "loss" for the objective of each row's batch.
        prepare: From the logits and labels of a batch to what is measured in place of the logits.
    """

    main_input: str = ""
    include: tuple[str, ...] = ()
    prepare: Callable[[Tensor, Any], Tensor] | None = None


Fetch = Callable[[Mapping[str, Any], tuple[str, ...]], TeacherSignal | None]


@dataclass
class TeacherMemory:
    """Teacher logits of an evaluation set, kept over epochs: the teacher is asked once.

    Args:
        logits: [B, C] by batch number.
        is_lacking: The source does not know these rows.
    """

    dataset: Any
    logits: dict[int, Tensor] = field(default_factory=dict)
    is_lacking: bool = False


@dataclass
class Predictions:
    """What one pass gave, in the order of the batches.

    Args:
        logits: [N, C], or [N, U, C] where rows have several units; None where there was no batch.
        labels: [N] or [N, U], or None where the rows have none.
        teacher_logits: Like `logits`, or None where the teacher was not there.
        positions: [N], the row of each in its data set.
        sums: Per term the sum of the loss.
        counts: Per term the units of the sum; 0 where the term could not be computed.
        mask: [N, U], true on the units that count; None where a row is one unit.
        inputs: [N, ...] the main input, −100 where a row is shorter; None where they were not asked for.
        losses: [N] the objective of the batch that the row was in; None where it was not asked for.
        prepared: [N, ...] what was made of the logits to be measured; None where they are measured themselves.
    """

    logits: Any
    labels: np.ndarray | None
    teacher_logits: np.ndarray | None
    positions: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    mask: np.ndarray | None = None
    inputs: np.ndarray | None = None
    losses: np.ndarray | None = None
    prepared: np.ndarray | None = None

    @property
    def predictions(self) -> Any:
        """What `compute_metrics` is given: logits, or what was made of them."""
        return self.logits if self.prepared is None else self.prepared

    def counted(self, *logits: Any) -> list[np.ndarray]:
        """Each of `logits` as one row for each unit that counts [M, C]; unchanged where a row is one unit."""
        return [values if self.mask is None else values[self.mask] for values in logits]

    def of_texts(self, groups: np.ndarray) -> tuple[Any, Any]:
        """Logits and labels of texts that were read in segments; `groups` [N] says which text each row belongs to."""
        if self.mask is not None:
            return self.logits, self.labels
        logits, first = pooled(self.logits, groups[self.positions])
        return logits, None if self.labels is None else self.labels[first]


def predict(
    loader: Any,
    placed: Callable[[dict[str, Any]], dict[str, Any]],
    student: Student,
    objective: Objective,
    fetch: Fetch | None,
    memory: TeacherMemory,
    on_batch: Callable[[], None],
    wanted: Wanted | None = None,
) -> Predictions:
    """Run the student, and the teacher where it knows the rows, over every batch."""
    logits, labels, teacher, masks, inputs, losses, prepared = [], [], [], [], [], [], []
    include = () if wanted is None else wanted.include
    sums, counts = torch.zeros(len(objective.terms), dtype=torch.float64), torch.zeros(len(objective.terms), dtype=torch.float64)
    for number, batch in enumerate(map(placed, loader)):
        view = student(batch)
        signal = None if fetch is None else _signal(number, batch, objective, fetch, memory)
        values = _terms(objective, view, signal, batch)
        for position, (total, count) in enumerate(values):
            sums[position] += total
            counts[position] += count
        logits.append(view.logits.float().cpu().numpy())
        if wanted is not None and wanted.prepare is not None:
            prepared.append(_prepared(wanted.prepare, view.logits, batch.get("labels")))
        mask = logit_mask(view)
        if mask is not None:
            masks.append(mask.bool().cpu().numpy())
        if "labels" in batch:
            labels.append(batch["labels"].cpu().numpy())
        if signal is not None and isinstance(signal.response, DenseLogits):
            teacher.append(signal.logits.float().cpu().numpy())
        if "loss" in include:
            parts = zip(objective.active_terms(), values, strict=True)
            loss = sum(weight * total / count for (_, weight), (total, count) in parts if count)
            losses.append(np.full(len(logits[-1]), loss, np.float32))
        if wanted is not None and "inputs" in include and isinstance(batch.get(wanted.main_input), Tensor):
            inputs.append(batch[wanted.main_input].cpu().numpy())
        on_batch()
    if memory.is_lacking:
        teacher = []  # of some rows is not of all
    batches = getattr(loader.batch_sampler, "batches", None)
    joined = _join(logits)
    positions = (
        np.arange(0 if joined is None else len(joined))
        if batches is None
        else np.asarray([row for batch in batches for row in batch], dtype=np.int64)
    )
    found = joined, _join(labels, IGNORED_LABEL), _join(teacher), positions, sums.numpy(), counts.numpy()
    return Predictions(*found, _join(masks, False), _join(inputs, IGNORED_LABEL), _join(losses), _join(prepared, IGNORED_LABEL))


def gathered(found: Predictions, num_ranks: int) -> Predictions:
    """All ranks' predictions, in the order of the rows; the same on every rank."""
    parts: list[Any] = [found]
    if num_ranks > 1:
        parts = [None] * num_ranks
        torch.distributed.all_gather_object(parts, found)
    parts = [part for part in parts if len(part.positions)]
    if not parts:
        return found
    positions = np.concatenate([part.positions for part in parts])
    order = np.argsort(positions, kind="stable")

    def joined(name: str, fill: float = FLOOR) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if any(array is None for array in arrays) else _join(arrays, fill)[order]

    return Predictions(
        joined("logits"),
        joined("labels", IGNORED_LABEL),
        joined("teacher_logits"),
        positions[order],
        np.sum([part.sums for part in parts], axis=0),
        np.sum([part.counts for part in parts], axis=0),
        joined("mask", False),
        joined("inputs", IGNORED_LABEL),
        joined("losses"),
        joined("prepared", IGNORED_LABEL),
    )


def memory_of(memories: list[TeacherMemory], dataset: Any) -> TeacherMemory:
    """The memory of a data set, which joins the others when it is first asked for."""
    for memory in memories:
        if memory.dataset is dataset:
            return memory
    memories.append(TeacherMemory(dataset))
    return memories[-1]


def best_network(found: Sequence[Predictions], metrics: Sequence[Mapping[str, float]]) -> tuple[Predictions, dict[str, float]]:
    """The answers and figures of the best of several networks, with the figures of each as ``peer_<number>_<figure>``."""
    figures = [each.get("selection", -each.get("loss", 0.0)) for each in metrics]
    best = max(range(len(figures)), key=figures.__getitem__)
    single = {f"peer_{k}_{name}": value for k, each in enumerate(metrics, start=1) for name, value in each.items()}
    return found[best], {**metrics[best], "best_peer": float(best + 1), **single}


def figures(
    found: Predictions,
    objective: Objective,
    groups: np.ndarray | None,
    closeness: Callable[[Any, Any], dict[str, float]],
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None,
    selection: Callable[[Mapping[str, float]], float] | None,
) -> dict[str, float]:
    """All figures of one network: the loss, closeness to the teacher, the task's measures, and the one that selects.

    Args:
        groups: [N] which text each row belongs to; None where every row is one.
        selection: From figures to the one that the best model has most of, or None.
    """
    means = {term.name: total / count for term, total, count in zip(objective.terms, found.sums, found.counts) if count}
    metrics = {}
    if means:
        weighted = sum(weight * means[term.name] for term, weight in objective.active_terms() if term.name in means)
        metrics = {"loss": float(weighted), **{f"loss_{name}": float(mean) for name, mean in means.items()}}
    if found.teacher_logits is not None:
        metrics |= closeness(*found.counted(found.logits, found.teacher_logits))
    if compute_metrics is not None and found.labels is not None:
        logits, labels = (found.predictions, found.labels) if groups is None else found.of_texts(groups)
        metrics |= compute_metrics(EvalPrediction(predictions=logits, label_ids=labels, inputs=found.inputs, losses=found.losses))
    return metrics if selection is None else {**metrics, "selection": selection(metrics)}


def _signal(
    number: int, batch: Mapping[str, Any], objective: Objective, fetch: Fetch, memory: TeacherMemory
) -> TeacherSignal | None:
    if memory.is_lacking:
        return None
    needs = tuple(dict.fromkeys(("logits", *objective.active_needs_teacher())))
    if needs == ("logits",) and number in memory.logits:
        return TeacherSignal(DenseLogits(memory.logits[number]))
    try:
        signal = fetch(batch, needs)
    except CacheError as err:
        logger.info("the teacher is not compared on the evaluation rows: %s", err)
        memory.is_lacking = True
        return None
    if signal is not None and isinstance(signal.response, DenseLogits):
        memory.logits[number] = signal.logits
    return signal


def _terms(
    objective: Objective, view: StudentView, signal: TeacherSignal | None, batch: Mapping[str, Any]
) -> list[tuple[float, float]]:
    values = []
    for term, weight in objective.active_terms():
        is_there = all(column in batch for column in term.loss.needs_batch())  # rows to predict have no labels
        has_no_graph = term.loss.reads_gradients and not torch.is_grad_enabled()
        if not weight or not is_there or has_no_graph or (term.loss.needs_teacher() and signal is None):
            values.append((0.0, 0.0))
            continue
        value = term.loss(view, signal, batch)
        values.append((float(value.sum), float(value.count)))
    return values


def _prepared(prepare: Callable[[Tensor, Any], Tensor], logits: Tensor, labels: Tensor | None) -> np.ndarray:
    """What `preprocess_logits_for_metrics` keeps of a batch."""
    kept = prepare(logits, labels)
    if not isinstance(kept, Tensor) or kept.dim() == 0 or len(kept) != len(logits):
        shape = list(kept.shape) if isinstance(kept, Tensor) else type(kept).__name__
        raise TrainingError(
            f"preprocess_logits_for_metrics returned {shape} where the batch size is {len(logits)}",
            "one tensor with an entry for each row",
            "return for example logits.argmax(-1)",
        )
    kept = kept.detach()
    return (kept.float() if kept.is_floating_point() else kept).cpu().numpy()


def _join(parts: list[np.ndarray], fill: float = FLOOR) -> Any:
    return joined_batches(parts, fill) if parts else None
