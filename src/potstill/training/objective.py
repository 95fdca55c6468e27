"""The training objective: terms summed over micro-batches, normalised by counts over the whole global batch.

objective = Σ_terms weight · Σ sum / count, where the count runs over accumulation × ranks. Losses return sums, so the same
gradient comes out however the global batch is cut. Weights of rows (`RowMemory`, mean one over the training set) and factors of
terms (`Balance`) change between optimizer steps only, so they leave that law as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from potstill.answers.one_class import class_uncertainty
from potstill.contracts.signal import TeacherSignal
from potstill.errors import TrainingError
from potstill.losses.contract import LossValue, StudentView
from potstill.losses.response import logit_mask
from potstill.training.balance import Balance
from potstill.training.row_memory import RowMemory, row_losses, weighted_view
from potstill.training.schedules import PerSample
from potstill.training.terms import Term

# Modules besides the losses; a name of a term cannot be one of them.
ROWS_KEY, BALANCE_KEY = "rows of training", "balance of terms"


class Objective:
    """Weighs, normalises and watches the terms of one training run."""

    def __init__(self, terms: Sequence[Term], device: torch.device) -> None:
        self.terms = tuple(terms)
        self.device = device
        self.modules = nn.ModuleDict({term.key: term.loss for term in terms})
        self.rows: RowMemory | None = None
        self.balance: Balance | None = None
        self._weights = [term.weight(0.0) for term in terms]
        self._scales: list[float] | Tensor = [1.0] * len(terms)
        self._totals = torch.zeros(len(terms), device=device)
        self._steps = [0] * len(terms)
        self._metrics: dict[str, tuple[Tensor, int]] = {}
        self._suspects: list[_Suspect] = []
        self._rows: list[Tensor] = []  # row ids of the micro-batches of this step
        self._gradient: _Suspect | None = None
        self.num_networks = 1  # peers share the objective: what is logged is their mean
        self.checks_at_once = device.type == "cpu"  # elsewhere before the optimizer moves, when the device has long gone on
        self.checks_batches = True  # off where a step is recorded as a graph: only the totals are looked at, rows stay unnamed
        self._progress = 0.0
        self.knows_answers = False

    def attach(self, *, rows: RowMemory | None, balance: Balance | None, knows_answers: bool) -> None:
        """Take on weights of rows and factors of terms; their state is kept with that of the losses.

        Args:
            knows_answers: Whether the source gives logits, so that the student can be compared with them by row.
        """
        self.rows, self.balance, self.knows_answers = rows, balance, knows_answers
        if rows is not None:
            self.modules[ROWS_KEY] = rows
        if balance is not None:
            self.modules[BALANCE_KEY] = balance

    def needs_student(self) -> tuple[str, ...]:
        """Every value of the student that some term reads at some time."""
        return _union(term.loss.needs_student() for term in self.terms)

    def needs_teacher(self) -> tuple[str, ...]:
        """Every value of the teacher that some term reads at some time."""
        return _union(term.loss.needs_teacher() for term in self.terms)

    def active_needs_teacher(self) -> tuple[str, ...]:
        """Values of the teacher that the terms of this step read."""
        needs = _union(term.loss.needs_teacher() for term, weight in zip(self.terms, self._weights) if weight)
        watches = self.rows is not None and self.rows.plan.focus == "student_loss" and self.knows_answers
        return _union([needs, ("logits",)]) if watches else needs

    def count(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """Units of each term over these batches, [terms], on the CPU, where a trainer's batches are at that time."""
        counts = [sum(torch.as_tensor(term.loss.count(batch), dtype=torch.float64) for batch in batches) for term in self.terms]
        return torch.stack([torch.as_tensor(count, dtype=torch.float64).cpu() for count in counts])

    def active_terms(self) -> list[tuple[Term, float]]:
        """Each term with its weight at present."""
        return list(zip(self.terms, self._weights))

    def set_progress(self, progress: float) -> None:
        """Set weights and temperatures for this share of training, 0 to 1."""
        self._progress = progress
        self._weights = [term.weight(progress) for term in self.terms]
        for term in self.terms:
            if term.temperature is not None:
                term.loss.temperature = term.temperature(progress)  # type: ignore[assignment]

    def begin_step(self, progress: float, counts: Tensor) -> None:
        """Set weights, temperatures and normalisation for this optimizer step.

        Args:
            counts: Units of each term over the whole global batch, [terms].
        """
        self.set_progress(progress)
        self._rows = []
        scales = 1.0 / counts.clamp(min=1.0)
        self._scales = scales.tolist() if scales.device.type == "cpu" else scales.float()
        for position, weight in enumerate(self._weights):
            self._steps[position] += bool(weight)

    def __call__(self, view: StudentView, signal: TeacherSignal | None, batch: Mapping[str, Any]) -> Tensor:
        """The share of this micro-batch in the objective, a scalar with gradient.

        Raises:
            TrainingError: A term is not finite (on the CPU at once; elsewhere at the next `check`, before the optimizer moves).
        """
        total = torch.zeros((), device=self.device)
        parts: list[Tensor] = []
        weighed = self._weighed(view, signal, batch)
        factors = [1.0] * len(self.terms) if self.balance is None else self.balance.factors(self._progress)
        for position, (term, weight) in enumerate(zip(self.terms, self._weights)):
            if not weight:
                parts.append(self._totals.new_zeros(()))
                continue
            value = self._value(term, view if term.loss.reads_gradients else weighed, signal, batch)
            part = value.sum.float() * self._scales[position]
            parts.append(part.detach())
            total = total + weight * factors[position] * part
            if self.balance is not None:
                total = self._balanced(total, position, part, value.count)
            for name, metric in value.metrics.items():
                held, times = self._metrics.get(f"{term.name}/{name}", (0.0, 0))
                self._metrics[f"{term.name}/{name}"] = (held + metric.detach(), times + 1)
        values = torch.stack(parts)
        self._totals += values
        if self.checks_batches and torch.is_grad_enabled() and isinstance(batch.get("row_id"), Tensor):
            self._rows.append(batch["row_id"])
        if self.checks_batches:
            self._suspects.append(_Suspect(values, batch.get("row_id")))
        if self.checks_at_once:
            self.check()
        return total

    def _weighed(self, view: StudentView, signal: TeacherSignal | None, batch: Mapping[str, Any]) -> StudentView:
        """The student's values with the rows' weights in their gradients; what the student does with the rows is kept."""
        if self.rows is None or "row_id" not in batch or not torch.is_grad_enabled():
            return view
        if self.rows.plan.focus == "student_loss":
            self.rows.remember(batch["row_id"], row_losses(view, signal, batch, self.rows.answers))
        return weighted_view(view, self.rows.weights_of(batch["row_id"])) if self.rows.plan.weighs_rows else view

    def _value(self, term: Term, view: StudentView, signal: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """The term's loss, at a temperature per row where the term has one."""
        heat = term.temperature
        if not isinstance(heat, PerSample) or signal is None:
            value = term.loss(view, signal, batch)
            if isinstance(value, LossValue):
                return value
            raise TrainingError(
                f"loss {term.name!r} returned {type(value).__name__}",
                "a LossValue: the sum over the batch, and the count that it is divided by",
                "return LossValue(sum=total, count=self.count(batch))",
            )
        certainty = 1 - class_uncertainty(signal.logits, logit_mask(view))
        rows = heat.low + (heat.high - heat.low) * certainty
        term.loss.temperature = rows.view(-1, *[1] * (signal.logits.dim() - 1))
        try:
            return term.loss(view, signal, batch)  # type: ignore[no-any-return]
        finally:
            term.loss.temperature = heat(self._progress)  # type: ignore[assignment]

    def _balanced(self, total: Tensor, position: int, part: Tensor, count: Tensor | float) -> Tensor:
        assert self.balance is not None
        if torch.is_grad_enabled():
            self.balance.measure(position, part)
        penalty = self.balance.penalty(position, count * self._scales[position])
        return total if penalty is None else total + penalty

    def after_step(self, num_ranks: int) -> None:
        """The optimizer has moved: take over what rows and terms did in the step."""
        if self.rows is not None:
            self.rows.after_step(num_ranks)
        if self.balance is not None:
            self.balance.after_step(self._weights, num_ranks)

    def check(self) -> None:
        """Look at the micro-batches since the last check; without `checks_batches`, at all that was added since the last `drain`.

        Raises:
            TrainingError: A term was not finite; names the term and the rows.
        """
        suspects, self._suspects = self._suspects, []
        if not self.checks_batches:
            suspects = [_Suspect(self._totals, None)]
        found = next((suspect for suspect in suspects if not suspect.is_finite()), None)
        if found is None:
            return
        values = found.values.tolist()
        names = [term.name for term, value in zip(self.terms, values) if value != value or abs(value) == float("inf")]
        raise NonFiniteLoss(names, found.row_ids.tolist() if isinstance(found.row_ids, Tensor) else [])

    def watch_gradient(self, norm: Tensor) -> None:
        """Look at the length of the gradient before the optimizer moves; on a GPU one step later, when it has long arrived."""
        if not self.checks_at_once:
            self.check_gradient()
        self._gradient = _Suspect(norm.detach().reshape(1), torch.cat(self._rows) if self._rows else None)
        if self.checks_at_once:
            self.check_gradient()

    def check_gradient(self) -> None:
        """Look at the length of the gradient that waits to be looked at."""
        found, self._gradient = self._gradient, None
        if found is not None and not found.is_finite():
            terms = [term.name for term, weight in zip(self.terms, self._weights) if weight]
            raise NonFiniteGradient(terms, found.row_ids.tolist() if isinstance(found.row_ids, Tensor) else [])

    def drain(self, num_ranks: int) -> dict[str, float]:
        """Mean of each term per optimizer step since the last call; reads the device once."""
        self.check()
        self.check_gradient()
        totals = self._totals.clone()
        if num_ranks > 1:
            torch.distributed.all_reduce(totals)
        values = {
            f"loss/{term.name}": total / (steps * self.num_networks)
            for term, total, steps in zip(self.terms, totals.tolist(), self._steps)
            if steps
        }
        values.update({f"loss/{name}": float(total) / times for name, (total, times) in self._metrics.items()})
        self._totals.zero_()
        self._steps = [0] * len(self.terms)
        self._metrics = {}
        return values


class _Suspect:
    """The terms of one micro-batch, and whether they are finite.

    On a GPU the answer is on its way from here on: who asks for it later waits for the forward pass alone, and the backward pass
    goes on meanwhile.
    """

    def __init__(self, values: Tensor, row_ids: Any) -> None:
        self.values, self.row_ids = values, row_ids
        self._answer, self._arrival = torch.isfinite(values).all(), None
        if values.is_cuda:
            host = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._answer = host.copy_(self._answer, non_blocking=True)
            self._arrival = torch.cuda.Event()
            self._arrival.record(torch.cuda.current_stream(values.device))

    def is_finite(self) -> bool:
        if self._arrival is not None:
            self._arrival.synchronize()
        return bool(self._answer)


class NonFiniteLoss(TrainingError):
    """A term became NaN or infinite."""

    def __init__(self, terms: Sequence[str], row_ids: Sequence[int]) -> None:
        self.terms, self.row_ids = tuple(terms), tuple(row_ids)
        super().__init__(
            f"the loss {' and '.join(map(repr, terms))} is not finite on {_batch_of(row_ids)}",
            "finite losses",
            "look at these rows, then lower the learning rate or take fp32; the state before the step was saved",
        )


class NonFiniteGradient(NonFiniteLoss):
    """The losses are finite, and the length of their gradient is not."""

    def __init__(self, terms: Sequence[str], row_ids: Sequence[int]) -> None:
        self.terms, self.row_ids = tuple(terms), tuple(row_ids)
        TrainingError.__init__(
            self,
            f"the gradient of {' and '.join(map(repr, terms))} is not finite on {_batch_of(row_ids)}, though the losses are",
            "a finite gradient",
            "train with one of these losses at a time to see whose it is, then leave it out, lower its weight or take fp32",
        )


def _batch_of(row_ids: Sequence[int]) -> str:
    rows = ", ".join(map(str, row_ids[:64])) + (" …" if len(row_ids) > 64 else "")
    return f"the batch with the row ids [{rows}]" if row_ids else "a batch whose rows have no row_id"


def _union(groups: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(need for group in groups for need in group))
