"""How far a student is from what a row asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from potstill.answers.base import means_of_units, unknown
from potstill.contracts.answers import Answers
from potstill.contracts.signal import TeacherSignal
from potstill.losses.contract import StudentView
from potstill.losses.response import logit_mask


def row_losses(view: StudentView, signal: TeacherSignal | None, batch: Mapping[str, Any], answers: Answers) -> Tensor:
    """[B] how far the student is from the teacher, else from the label; NaN where neither is there."""
    with torch.no_grad():
        logits = view.logits.detach().float()
        if signal is not None and signal.response is not None:
            teacher = signal.logits.float()
            if teacher.shape == logits.shape:
                return means_of_units(answers.distance(teacher, logits), logit_mask(view))
        labels = batch.get("labels")
        return unknown(logits) if labels is None else answers.label_distance(logits, labels)
