"""Memory of every training row: how unsure the teacher is, how far the student is, and the weights that follow.

Shapes: N rows of the training set, B batch, C classes, T tokens. All of it is in buffers, so a checkpoint holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.answers.base import means_of_units, unknown
from potstill.contracts.answers import Answers
from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError
from potstill.losses.contract import StudentView
from potstill.losses.response import logit_mask
from potstill.training.row_plan import RowPlan

LARGEST = 10.0  # no row counts more than ten times the mean before the weights are scaled to a mean of one
UNKNOWN = -1.0


class RowMemory(nn.Module):
    """Weights and difficulties of the rows of one training set.

    The weights have the mean one over all N rows, whatever the focus, so that a term keeps its size: its gradient is
    Σ w_i ∇l_i / count, with the count of an unweighted term. They change between optimizer steps only, never within one.

    Args:
        plan: What is wanted.
        row_ids: [N] the id of each row, in the order of the data set.
        difficulty: [N] from 0 (easy) to 1; zeros where the plan does not ask.
        uncertainty: [N] of the teacher, 0 to 1; zeros where the plan does not ask.
        answers: What the answers are, and so what the distance of a row is.
    """

    row_ids: Tensor
    difficulty: Tensor
    uncertainty: Tensor
    losses: Tensor
    drawn_by: Tensor
    drawn_epoch: Tensor

    def __init__(self, plan: RowPlan, row_ids: Tensor, difficulty: Tensor, uncertainty: Tensor, answers: Answers) -> None:
        super().__init__()
        self.plan, self.answers = plan, answers
        ids = row_ids.to(torch.int64)
        order = torch.argsort(ids, stable=True)
        self._sorted, self._order = ids[order].cpu().numpy(), order.cpu().numpy()
        self.register_buffer("row_ids", ids)
        self.register_buffer("difficulty", difficulty.float())
        self.register_buffer("uncertainty", uncertainty.float())
        self.register_buffer("losses", torch.full((len(ids),), UNKNOWN))
        self.register_buffer("drawn_by", torch.ones(len(ids)))
        self.register_buffer("drawn_epoch", torch.tensor(-1))
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._weights: Tensor | None = None

    def weights(self) -> Tensor:
        """[N] the weight of every row, of mean one."""
        if self.plan.focus == "teacher_uncertainty":
            values = self.uncertainty
        elif self.plan.focus == "student_loss":
            known = self.losses >= 0
            count = known.sum()
            middle = torch.where(count > 0, (self.losses * known).sum() / count.clamp(min=1), 1.0)
            values = torch.where(known, self.losses, middle)
        else:
            return torch.ones_like(self.losses)
        relative = (values / values.mean().clamp(min=1e-12)).clamp(max=LARGEST)
        relative = torch.where(relative.sum() > 0, relative / relative.mean().clamp(min=1e-12), 1.0)
        return 1 - self.plan.strength + self.plan.strength * relative

    def weights_of(self, row_ids: Tensor) -> Tensor:
        """[B] the weights of a batch at this optimizer step."""
        if self._weights is None:
            self._weights = self.weights()
        return self._weights[self.places(row_ids).to(self._weights.device, non_blocking=True)]

    def weights_of_epoch(self, epoch: int) -> np.ndarray:
        """[N] the weights that an epoch is drawn by: those of its beginning, also after it was interrupted."""
        if int(self.drawn_epoch) != epoch:
            self.drawn_by.copy_(self.weights())
            self.drawn_epoch.fill_(epoch)
        values: np.ndarray = self.drawn_by.double().cpu().numpy()
        return values

    def places(self, row_ids: Tensor) -> Tensor:
        """[B] the position of each row in the data set.

        Raises:
            NeedsError: A row that is not in the training set.
        """
        wanted = row_ids.detach().cpu().numpy()
        found = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        if not np.array_equal(self._sorted[found], wanted):
            raise NeedsError(
                f"row {int(wanted[self._sorted[found] != wanted][0])} has no weight, it is not in the training set",
                "batches of the rows that the trainer was given",
                "train on the data set that was passed as train_dataset, or set rows.focus: none",
            )
        return torch.from_numpy(self._order[found])

    def remember(self, row_ids: Tensor, losses: Tensor) -> None:
        """Keep a batch's losses until the optimizer step is done; rows whose loss is not finite stay as they were."""
        if self.plan.focus == "student_loss":
            self._pending.append((row_ids.detach(), losses.detach().float()))

    def after_step(self, num_ranks: int) -> None:
        """Take over what all ranks, and all networks where there are peers, saw in this step: their mean for each row."""
        if self.plan.focus != "student_loss":
            return
        seen: list[Any] = self._pending
        self._pending, self._weights = [], None
        if num_ranks > 1:
            parts: list[Any] = [None] * num_ranks
            torch.distributed.all_gather_object(parts, [(ids.cpu(), losses.cpu()) for ids, losses in seen])
            seen = [pair for part in parts for pair in part]
        if not seen:
            return
        ids, losses = (torch.cat([pair[part].to(self.losses.device) for pair in seen]) for part in (0, 1))
        places = self.places(ids).to(self.losses.device, non_blocking=True)
        is_known = torch.isfinite(losses)
        sums, times = torch.zeros_like(self.losses), torch.zeros_like(self.losses)
        sums.index_add_(0, places, torch.where(is_known, losses.clamp(min=0), 0.0))
        times.index_add_(0, places, is_known.to(times.dtype))
        self.losses.copy_(torch.where(times > 0, sums / times.clamp(min=1), self.losses))

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._weights = None


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


class _Weighted(torch.autograd.Function):
    """The identity, whose gradient is multiplied per row."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        gradient = gradients[0]
        return gradient * weights.to(gradient.dtype).view(-1, *[1] * (gradient.dim() - 1)), None


def weighted_view(view: StudentView, weights: Tensor) -> StudentView:
    """The same values, but what flows back into row i is multiplied by its weight.

    For every loss that is a sum over rows, the student's gradient is that of Σ w_i l_i; for a loss that compares rows, each
    row's share of the pull is weighed. Values that are reported, and bridges, are those of unweighted rows.

    Args:
        view: Logits [B, …] and taps with the batch first; others stay as they are.
        weights: [B].
    """
    weights = weights.to(view.logits.device)

    def weighted(values: Tensor) -> Tensor:
        has_rows = values.requires_grad and values.dim() > 0 and values.shape[0] == len(weights)
        return _Weighted.apply(values, weights) if has_rows else values  # type: ignore[no-untyped-call, no-any-return]

    taps = {name: weighted(values) for name, values in view.taps.items()}
    return replace(view, logits=weighted(view.logits), taps=taps)
