"""Checks before the first step: whether the models give what the losses need, and in which shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from potstill import losses
from potstill.contracts.answers import Answers
from potstill.contracts.response import Response
from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, PotstillError, raise_faults
from potstill.ground.devices import frozen
from potstill.knowledge.ensemble import EACH
from potstill.losses.contract import Shapes
from potstill.models.families import family_or_none
from potstill.models.taps import Taps, available, can_give, head_of, stages_of
from potstill.training.terms import Term

PROBE_ROWS = 4


def probe(dataset: Any, collator: Any) -> dict[str, Any]:
    """A batch of the first rows of a data set."""
    if isinstance(dataset, IterableDataset):
        return dict(collator([row for row, _ in zip(dataset, range(PROBE_ROWS))]))
    return dict(collator([dataset[index] for index in range(min(PROBE_ROWS, len(dataset)))]))


def check_needs(terms: Sequence[Term], student: nn.Module, source: Any) -> None:
    """Every term's needs against what student and teacher give, all faults at once.

    Raises:
        NeedsError: One need is not met; names the loss, the need, and what is there.
        Faults: Several are not met.
    """
    faults: list[PotstillError] = []
    for term in terms:
        for need in term.loss.needs_student():
            fault = _student_fault(term, need, student)
            faults.extend([fault] if fault else [])
        for need in term.loss.needs_teacher():
            if source is None:
                faults.append(_no_teacher(term, need))
                break
            if not provides(source, need):
                faults.append(_teacher_fault(term, need, source))
    raise_faults(faults)


def check_batch(terms: Sequence[Term], batch: Mapping[str, Any]) -> None:
    """Refuse batches without a column that a term reads."""
    for term in terms:
        for column in term.loss.needs_batch():
            if column not in batch:
                raise NeedsError(
                    f"loss {term.name!r} reads the batch column {column!r}, the batches hold {', '.join(sorted(batch))}",
                    "a collator that keeps it",
                    f"return {column!r} from the collator",
                )


def check_response(terms: Sequence[Term], response: Response | None) -> None:
    """Every term that reads the teacher's logits takes the kind of response that the source gives, at its temperature.

    Raises:
        NeedsError: One does not; names the losses that do.
    """
    if response is None:
        return
    fixed = response.fixed_temperature
    for term in terms:
        if "logits" not in term.loss.needs_teacher():
            continue
        if not isinstance(response, term.loss.responses):
            taking = [name for name in losses.names() if isinstance(response, losses.build(name).responses)]
            raise NeedsError(
                f"loss {term.name!r} reads {' or '.join(kind.name for kind in term.loss.responses)} answers of the teacher,"
                f" the source gives {response.name!r}",
                f"of losses on the teacher's answers: {', '.join(taking) or 'none'}",
                f"take {taking[0]!r}, or keep every logit ('dense')" if taking else "take a source of every logit ('dense')",
            )
        given = "a schedule" if term.temperature is not None else getattr(term.loss, "temperature", fixed)
        if fixed is not None and given != fixed:
            raise NeedsError(
                f"loss {term.name!r} has the temperature {given}, the answers were kept as {response.name!r} at {fixed}",
                f"temperature: {fixed}",
                "set it, or keep the answers at another temperature, or every logit ('dense')",
            )


def check_answers(terms: Sequence[Term], batch: Mapping[str, Any], logits: tuple[int, ...]) -> None:
    """Refuse answers of a shape, or labels of a batch, that the terms cannot take."""
    for term in terms:
        if term.loss.of_rows and len(logits) != 2:
            raise NeedsError(
                f"loss {term.name!r} is of one answer for each row, the answers are {list(logits)}",
                "a task that answers whole rows",
                "take the loss kl",
            )
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        return
    for term in terms:
        if term.loss.reads_numbers() and labels.numel() != math.prod(logits):
            raise NeedsError(
                f"loss {term.name!r} reads a number for each output: labels {list(labels.shape)}, answers {list(logits)}",
                "labels of the shape of the answers",
                "take the loss ce for classes, or target: teacher",
            )
        if term.loss.reads_numbers() or "labels" not in term.loss.needs_batch():
            continue
        if labels.is_floating_point() or tuple(labels.shape) != logits[:-1]:
            raise NeedsError(
                f"loss {term.name!r} reads the number of a class, labels are {labels.dtype} {list(labels.shape)}"
                f" for answers {list(logits)}",
                "whole numbers, one for each answer",
                'set problem_type of the configuration to "multi_label_classification" or "regression", or name the losses',
            )
        if bool((labels >= logits[-1]).any()):
            raise NeedsError(
                f"a label is {int(labels.max())}, and the student answers with {logits[-1]} classes",
                f"labels from 0 to {logits[-1] - 1}, or -100 for none",
                "check the labels, or give the student as many classes",
            )


def provides(source: Any, need: str) -> bool:
    """Whether a source of knowledge says that it has the needed value."""
    promised = bool(source.can_provide(need)) if hasattr(source, "can_provide") else need in source.provides
    model = getattr(source, "model", None)
    return promised and (need == EACH or not isinstance(model, nn.Module) or can_give(model, need))


def shapes_of_student(taps: Taps, inputs: Mapping[str, Any], answers: Answers, batch: Mapping[str, Any] | None = None) -> Shapes:
    """Shapes of the student's values on one batch; the model's mode is left as it was.

    Args:
        batch: The whole batch, which says whether rows have several units; None where they have not.
    """
    with frozen(taps.model):
        logits, values = taps.run(inputs)
    arranged, _ = answers.arrange({"logits": logits}, batch or {})
    return Shapes(_shapes(values), tuple(arranged.shape), student_modules(taps.model))


def shapes_of_teacher(source: Any, batch: Mapping[str, Any], terms: Sequence[Term]) -> Shapes | None:
    """Shapes of the teacher's values on one batch, or None where the terms need nothing of it."""
    needs = tuple(dict.fromkeys(need for term in terms for need in term.loss.needs_teacher()))
    if not needs:
        return None
    signal = source.signal(batch, needs)
    check_response(terms, signal.response)
    shape = () if signal.response is None else signal.response.shape
    model = getattr(source, "model", None)
    return Shapes(_shapes(signal.taps), shape, student_modules(model) if isinstance(model, nn.Module) else {})


def student_modules(model: nn.Module) -> dict[str, nn.Module]:
    """A model's own modules by role, for losses that reuse one."""
    head = head_of(model)
    return {} if head is None else {"head": head}


def to_device(signal: TeacherSignal, device: torch.device) -> TeacherSignal:
    """The signal with all tensors on `device`; itself where they are."""
    response = None if signal.response is None else signal.response.to(device)
    tensors = [*signal.taps.values(), *([signal.token_mask] if signal.token_mask is not None else [])]
    if response is signal.response and all(tensor.device == device for tensor in tensors):
        return signal
    mask = None if signal.token_mask is None else signal.token_mask.to(device, non_blocking=True)
    return TeacherSignal(
        response, {name: value.to(device, non_blocking=True) for name, value in signal.taps.items()}, mask, signal.head
    )


def _shapes(values: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in values.items()}


def _student_fault(term: Term, need: str, student: nn.Module) -> NeedsError | None:
    try:
        Taps(student, [need])
    except NeedsError as err:
        instead = getattr(term.loss, "nearest", "kl")
        todo = f"{err.todo} Or take the loss {instead}" if err.todo else f"name a value that is there, or take the loss {instead}"
        return NeedsError(f"loss {term.name!r} needs {need!r} of the student: {err.given}", err.accepted, todo)
    return None


def _no_teacher(term: Term, need: str) -> NeedsError:
    return NeedsError(
        f"loss {term.name!r} needs {need!r} of a teacher, and no teacher was given",
        "a teacher model or a source of knowledge",
        "pass teacher=…, or take losses that read labels alone, such as 'ce'",
    )


def _teacher_fault(term: Term, need: str, source: Any) -> NeedsError:
    given = getattr(source, "provides", None)
    model = getattr(source, "model", None)
    held = ", ".join(sorted(given)) if isinstance(given, (set, frozenset)) else ""
    if not held and isinstance(model, nn.Module):
        held = ", ".join(available(model))
        blocks = "" if family_or_none(model) or stages_of(model) else "name the module's blocks in its attribute tap_stages, "
        return NeedsError(
            f"loss {term.name!r} needs {need!r} of the teacher, {type(model).__name__} does not give it",
            held,
            f"{blocks}name a value that is there, or take the loss {getattr(term.loss, 'nearest', 'kl')}, or kl",
        )
    return NeedsError(
        f"loss {term.name!r} needs {need!r} of the teacher, {type(source).__name__} does not provide it",
        held or "what the source provides",
        "take a live teacher (cache: never), or a loss that needs 'logits' alone, such as 'kl'",
    )
