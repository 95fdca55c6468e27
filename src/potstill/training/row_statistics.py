"""Before the first step: the id of every training row, and how hard it is to the teacher or by its length.

Shapes: N rows of the training set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from potstill.answers.units import has_units, unit_mask
from potstill.contracts.answers import Answers
from potstill.errors import NeedsError
from potstill.training import order, preparation
from potstill.training.row_memory import RowMemory
from potstill.training.row_plan import RowPlan

logger = logging.getLogger(__name__)
Placed = Callable[[dict[str, Any]], dict[str, Any]]


def make_memory(
    plan: RowPlan, dataset: Any, collator: Any, source: Any, args: Any, placed: Placed, answers: Answers
) -> RowMemory:
    """The memory of a training set's rows, with what the plan asks of teacher and rows."""
    _refuse(plan, dataset, source)
    refuse_certain(plan, answers)
    row_ids = _row_ids(dataset)
    zeros = torch.zeros(len(row_ids))
    uncertainty = _uncertainty(dataset, row_ids, collator, source, args, placed, answers) if plan.asks_teacher else zeros
    difficulty = zeros
    if plan.order == "curriculum":
        difficulty = torch.from_numpy(np.asarray(dataset.lengths)).float() if plan.difficulty == "length" else uncertainty
        difficulty = difficulty / difficulty.max().clamp(min=1e-12)
    return RowMemory(plan, row_ids, difficulty, uncertainty, answers)


def _refuse(plan: RowPlan, dataset: Any, source: Any) -> None:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise NeedsError(
            "rows.order and rows.focus need to know all rows, and these come as a stream",
            "a data set with a length",
            "encode the rows first, or leave distill.rows out",
        )
    if plan.order == "curriculum" and plan.difficulty == "length":
        lengths = np.asarray(getattr(dataset, "lengths", ()))
        if not len(lengths) or lengths.min() == lengths.max():
            raise no_lengths(f"all rows have length {lengths[0]}" if len(lengths) else "the data set has no `lengths`")
    if plan.asks_teacher and (source is None or not preparation.provides(source, "logits")):
        raise _no_uncertainty(plan, "needs the teacher's logits, and there are none", "a teacher that gives logits")


def no_lengths(what: str) -> NeedsError:
    """That rows cannot be put in order by their lengths."""
    return NeedsError(
        f"rows.difficulty: length needs the length of every row, and {what}",
        "texts of different lengths, or difficulty: teacher",
        "set rows.difficulty: teacher",
    )


def refuse_certain(plan: RowPlan, answers: Answers) -> None:
    """Refuse a plan by the teacher's uncertainty where its answers have none."""
    if plan.asks_teacher and not answers.has_uncertainty:
        lack = f"asks how unsure the teacher is, and its answers ({answers.noun}) do not say"
        raise _no_uncertainty(plan, lack, "answers that are probabilities of classes or labels")


def _no_uncertainty(plan: RowPlan, lack: str, accepted: str) -> NeedsError:
    what = "rows.focus: teacher_uncertainty" if plan.focus == "teacher_uncertainty" else "rows.difficulty: teacher"
    return NeedsError(f"{what} {lack}", accepted, "set rows.focus: student_loss, or rows.difficulty: length")


def _row_ids(dataset: Any) -> Tensor:
    known = getattr(dataset, "row_ids", None)
    if known is not None:
        return torch.from_numpy(np.array(known, dtype=np.int64))
    try:
        return torch.tensor([int(dataset[index]["row_id"]) for index in range(len(dataset))])
    except (KeyError, TypeError) as error:
        raise NeedsError(
            "rows.order and rows.focus find rows by their id, and the rows have none",
            "a key row_id in every row, or an attribute row_ids of the data set",
            "add row_id, a different whole number for each row",
        ) from error


def _uncertainty(
    dataset: Any, row_ids: Tensor, collator: Any, source: Any, args: Any, placed: Placed, answers: Answers
) -> Tensor:
    """[N] the teacher's uncertainty; each rank asks for its share of the rows."""
    started = time.monotonic()
    batches, loader = order.evaluation_loader(dataset, collator, args)
    found = torch.zeros(len(row_ids), device=args.device if args.world_size > 1 else None)
    for positions, batch in zip(batches, loader, strict=True):
        signal = preparation.to_device(source.signal(placed(batch), ("logits",)), args.device)
        mask = unit_mask(batch, signal.logits.device) if has_units(batch) else signal.token_mask
        found[positions] = answers.uncertainty(signal.logits, mask).to(found.device)
    if args.world_size > 1:
        torch.distributed.all_reduce(found)
    seconds = time.monotonic() - started
    logger.info("the teacher's uncertainty on %d rows, mean %.3f of 1, took %.1f s", len(found), float(found.mean()), seconds)
    return found.cpu()
