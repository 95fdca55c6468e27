"""Exponential moving average of the student's weights: what is evaluated and saved, while the raw weights train on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from potstill.errors import TrainingError


class WeightAverage:
    """average ← average + (1 − d) · (weights − average), with d = min(decay, (1 + n) / (10 + n)) after n steps.

    The rising decay keeps the random start of a new head out of the average of a short run.

    Args:
        model: The student; parameters under the prefix `ignored` are left alone. Statistics of its norms (buffers of floating
            point that are saved) are averaged too, so that they fit the averaged weights.
        decay: Share of the old average that a step keeps, below 1.
        ignored: Name prefix of parameters that are not averaged.

    Raises:
        TrainingError: A decay outside (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float, *, ignored: str = "_distill.") -> None:
        if not 0.0 < decay < 1.0:
            raise TrainingError(f"average_decay is {decay}", "a number between 0 and 1", "set 0.999, or None for no averaging")
        self.decay, self.steps = decay, 0
        named: dict[str, Tensor] = {
            name: p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(ignored)
        }
        kept = model.state_dict(keep_vars=True)
        named |= {
            name: b
            for name, b in model.named_buffers()
            if name in kept and b.is_floating_point() and not name.startswith(ignored)
        }
        self._names, self._weights = list(named), list(named.values())
        self._averages = [weight.detach().clone() for weight in self._weights]

    def update(self) -> None:
        """Take one step towards the present weights."""
        decay = min(self.decay, (1.0 + self.steps) / (10.0 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(self._averages, [weight.detach() for weight in self._weights], 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own, bit for bit, afterwards."""
        raw = [weight.data for weight in self._weights]
        self._point_at(self._averages)
        try:
            yield
        finally:
            self._point_at(raw)

    def keep(self) -> None:
        """Leave the averaged weights in the model for good."""
        with torch.no_grad():
            for weight, average in zip(self._weights, self._averages):
                weight.copy_(average)

    def state(self) -> dict[str, Tensor]:
        """The raw weights and the number of steps; the averages are the saved student itself."""
        return {**dict(zip(self._names, (w.detach() for w in self._weights))), "average_steps": torch.tensor(self.steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the model's present weights as averages and put the raw weights of `state` into the model."""
        with torch.no_grad():
            for average, weight, name in zip(self._averages, self._weights, self._names):
                average.copy_(weight)
                weight.copy_(state[name])
        self.steps = int(state["average_steps"])

    def _point_at(self, tensors: list[Tensor]) -> None:
        for weight, tensor in zip(self._weights, tensors):
            weight.data = tensor
