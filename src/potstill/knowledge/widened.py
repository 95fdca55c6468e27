"""The teacher that a student of several tasks is cut out of: the first task's, with classes of all tasks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.data.encoded import EncodedRows
from potstill.data.task_rows import rows_of
from potstill.ground.devices import compute_device, placed
from potstill.knowledge.live import LiveTeacher
from potstill.knowledge.per_task import widen_head
from potstill.models.labels import final_linear, name_classes
from potstill.models.party import Teacher
from potstill.students.head_fit import NEW_HEAD_RIDGE, regress

FITTED_ROWS, FITTED_BATCH = 512, 32  # of each task, for the first weights of its classes


def widened_teacher(joint: Teacher, teachers: Sequence[Teacher], seed: int) -> Teacher:
    """The first task's teacher with classes of all tasks: what the student is cut out of.

    Its own classes keep their weights. Those of another task are fitted by least squares, from the features of the first teacher
    to what that task's teacher answers on its training rows. They are drawn towards that teacher's own head where both are models
    of one kind and width, so that teachers which share their body keep their heads as they are; towards zero otherwise.
    `joint` is the first task's teacher with the rows of all tasks in its tokens.
    """
    label_names = joint.rows.label_names
    model = copy.deepcopy(joint.model)
    widen_head(model, 0, len(label_names))
    name_classes(model, label_names)
    head = final_linear(model, len(label_names))
    for number, one in enumerate(teachers[1:], start=1):
        _fit_block(joint, one, number, model, head, seed)
    widened = replace(joint.loaded, model=model)
    return replace(joint, load=lambda: widened, measured={}, _opened={})


def _fit_block(joint: Teacher, one: Teacher, number: int, model: nn.Module, head: nn.Linear, seed: int) -> None:
    rows = rows_of(joint.encoded("train"), number)
    drawn = np.random.default_rng(seed).permutation(len(rows))[:FITTED_ROWS]
    features = _features(joint, model, head, rows.subset(drawn))
    start, stop = one.rows.block
    block = nn.Linear(head.in_features, stop - start, dtype=head.weight.dtype)
    _start_block(block, one.model, model)
    regress(block, features, _answers(one, rows.row_ids[drawn]), NEW_HEAD_RIDGE)
    with torch.no_grad():
        head.weight[start:stop] = block.weight.to(head.weight)
        if head.bias is not None:
            head.bias[start:stop] = block.bias.to(head.bias)


@torch.no_grad()
def _start_block(block: nn.Linear, teacher: Any, model: Any) -> None:
    """The head of a task's teacher, where its features may be like those of the model; zeros otherwise."""
    own = final_linear(teacher, block.out_features)
    is_alike = teacher.config.model_type == model.config.model_type and own.in_features == block.in_features
    block.weight.copy_(own.weight) if is_alike else block.weight.zero_()
    block.bias.copy_(own.bias) if is_alike and own.bias is not None else block.bias.zero_()


def _features(joint: Teacher, model: nn.Module, head: nn.Linear, rows: EncodedRows) -> Tensor:
    """What goes into the final layer [N, D], in double precision on the CPU."""
    found: list[Tensor] = []
    source = LiveTeacher(model, device=compute_device())  # type: ignore[arg-type]
    handle = head.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].detach().double().cpu()))
    try:
        with placed(model):
            for batch in _batches(rows):
                source.signal(joint.collator(batch))
    finally:
        handle.remove()
    return torch.cat(found)


def _answers(one: Teacher, row_ids: np.ndarray) -> Tensor:
    """What the task's teacher says of these rows [N, C], in double precision on the CPU."""
    rows = one.encoded("train")
    order = np.argsort(rows.row_ids, kind="stable")
    places = order[np.searchsorted(rows.row_ids[order], row_ids)]
    source = LiveTeacher(one.model)
    with placed(one.model):
        return torch.cat([source.signal(one.collator(batch)).logits.double().cpu() for batch in _batches(rows.subset(places))])


def _batches(rows: EncodedRows) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), FITTED_BATCH):
        yield rows.__getitems__(range(start, min(start + FITTED_BATCH, len(rows))))
