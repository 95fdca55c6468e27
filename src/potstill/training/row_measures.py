"""How unsure a teacher is of a row, and how far a student is from it, by what the answers are.

Shapes: B batch, C classes, labels or numbers, T tokens, U units.
A row's answer is one class of C ("class"), several labels of C ("labels"), C numbers ("numbers") or a vector ("embedding").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.ground.precision import FLOOR
from potstill.losses.contract import IGNORED_LABEL, StudentView
from potstill.losses.response import logit_mask
from potstill.models.sentence_model import HEAD

Kind = Literal["class", "labels", "numbers", "embedding"]
_OF_PROBLEM: Mapping[str, Kind] = {"multi_label_classification": "labels", "regression": "numbers"}


def kind_of_answers(model: nn.Module) -> Kind:
    """What a model answers: by the name of its head, or the problem type of its configuration; else one class, or one number."""
    if type(model).__name__.endswith(HEAD):
        return "embedding"
    config = getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    if problem is None and getattr(config, "num_labels", None) == 1:  # as transformers takes it
        return "numbers"
    return _OF_PROBLEM.get(str(problem), "class")


def uncertainty_of(logits: Tensor, mask: Tensor | None = None, *, kind: Kind = "class") -> Tensor:
    """[B] from 0 (sure) to 1: the entropy of an answer by the largest that it could have; the mean over units that count.

    Of classes: of softmax(logits), by the log of how many classes a row may have (those that are ruled out have −∞ or `FLOOR`).
    Of labels: the mean over labels of that of a yes or no. Numbers and embeddings have none.

    Args:
        logits: [B, C] or [B, T, C].
        mask: [B, T], true on real tokens, or on the units that count.
        kind: "class" or "labels".
    """
    logits = logits.detach().float()
    if kind == "labels":
        p = logits.sigmoid()
        entropy = ((torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2)).mean(-1)
        return _row_means(entropy, mask).clamp(0.0, 1.0)
    choices = (logits > 0.99 * FLOOR).sum(-1).clamp(min=2)
    log_p = F.log_softmax(logits.nan_to_num(neginf=FLOOR, posinf=-FLOOR), dim=-1)
    entropy = -(log_p.exp() * log_p).sum(-1) / choices.log()
    return _row_means(entropy, mask).clamp(0.0, 1.0)


def row_losses(view: StudentView, signal: TeacherSignal | None, batch: Mapping[str, Any], *, kind: Kind = "class") -> Tensor:
    """[B] how far the student is from the teacher, else from the label; NaN where neither is there.

    Of classes: KL in nats at τ = 1, else cross-entropy; of labels: the mean of those of each label; of numbers: the mean squared
    difference; of embeddings: 1 − cosine.

    Args:
        view: What the student says.
        signal: What the teacher says, or None.
        batch: With ``labels``, where there are any.
        kind: What the answers are.
    """
    with torch.no_grad():
        logits, mask = view.logits.detach().float(), logit_mask(view)
        if signal is not None and signal.response is not None:
            teacher = signal.logits.float()
            if teacher.shape == logits.shape:
                return _row_means(_distance(teacher, logits, kind), mask)
        labels = batch.get("labels")
        if labels is None or kind == "embedding":
            return logits.new_full((len(logits),), math.nan)
        return _from_numbers(logits, labels, kind) if kind != "class" else _from_classes(logits, labels)


def _distance(teacher: Tensor, student: Tensor, kind: Kind) -> Tensor:
    if kind == "embedding":
        return 1 - F.cosine_similarity(teacher, student, dim=-1)
    if kind == "numbers" or (kind == "class" and teacher.shape[-1] < 2):
        return (teacher - student).square().mean(-1)
    if kind == "labels":
        p = teacher.sigmoid()
        entropy = torch.special.entr(p) + torch.special.entr(1 - p)
        return (F.binary_cross_entropy_with_logits(student, p, reduction="none") - entropy).clamp(min=0).mean(-1)
    log_p, log_q = F.log_softmax(teacher, dim=-1), F.log_softmax(student, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _from_classes(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point() or logits.shape[-1] < 2 or labels.shape != logits.shape[:-1]:
        return logits.new_full((len(logits),), math.nan)
    values = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none")
    return _known_means(values.view(labels.shape), labels != IGNORED_LABEL)


def _from_numbers(logits: Tensor, labels: Tensor, kind: Kind) -> Tensor:
    if labels.numel() != logits.numel():
        return logits.new_full((len(logits),), math.nan)
    labels = labels.view_as(logits).float()
    is_known = (labels != IGNORED_LABEL) & ~labels.isnan()
    wanted = torch.where(is_known, labels, 0.0)
    if kind == "labels":
        return _known_means(F.binary_cross_entropy_with_logits(logits, wanted, reduction="none"), is_known)
    return _known_means((logits - wanted).square(), is_known)


def _known_means(values: Tensor, is_known: Tensor) -> Tensor:
    """The mean over the known places of each row; NaN where none is known."""
    counts = is_known.flatten(1).sum(1) if is_known.dim() > 1 else is_known.long()
    values = torch.where(is_known, values, 0.0)
    sums = values.flatten(1).sum(1) if values.dim() > 1 else values
    return torch.where(counts > 0, sums / counts.clamp(min=1), sums.new_full((), math.nan))


def _row_means(values: Tensor, mask: Tensor | None) -> Tensor:
    if values.dim() == 1:
        return values
    if mask is None:
        return values.flatten(1).mean(1)
    kept = mask.to(values.dtype)
    return (values * kept).sum(1) / kept.sum(1).clamp(min=1)
