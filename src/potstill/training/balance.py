"""Balance of the terms of the objective: by phase of training, by the norm of their gradients, or by learned variances.

Shapes: K terms.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import RecipeError
from potstill.ground.tables import nearest, resolve
from potstill.losses.contract import Loss
from potstill.losses.layers import loss_name

logger = logging.getLogger(__name__)

BALANCES = {
    "phases": "potstill.training.balance:Phases",
    "gradient_norm": "potstill.training.balance:GradientNorm",
    "uncertainty": "potstill.training.balance:Uncertainty",
}
"""Name → class, made with the losses and the student's trained weights by name, in the order of the forward pass."""
OFF = "none"
EARLY_FEATURES, LATE_TASK, HALF = 0.7, 0.6, 0.5
MEASURED_EVERY_STEPS = 20
KEPT = 0.9  # of the running norms at each measurement
LARGEST_FACTOR = 1e4
LARGEST_LOG_VARIANCE = 6.0
NOT_LOOKED_FOR, NONE = -1, -2  # instead of the position of a shared matrix


class Balance(nn.Module):
    """Factors of the terms' weights; this one leaves them as they are."""

    learning_rate_multiple = 1.0

    def __init__(self, losses: Sequence[Loss], parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()

    def factors(self, progress: float) -> Sequence[float | Tensor]:
        """One factor per term for this step, at this share of training."""
        raise TypeError(f"{type(self).__name__} does not define factors")

    def penalty(self, position: int, share: Tensor | float) -> Tensor | None:
        """What a term adds to its weighted value; `share` is the micro-batch's part of the term's global count."""
        return None

    def measure(self, position: int, part: Tensor) -> None:
        """Look at one term's normalised value, with its graph, before the backward pass."""

    def after_step(self, weights: Sequence[float], num_ranks: int) -> None:
        """Take over what was seen in this step."""


class Phases(Balance):
    """Features early, the task late: 0.7 of the weight to features in the first half, 0.6 to the task in the second.

    Features are all terms on inner values, the task those on the output. Within its group a term keeps its weight; a group's
    own weights count as one half, so a factor is twice the group's share.
    Source: the shares that guides to phased distillation give; no paper stands behind them.
    """

    def __init__(self, losses: Sequence[Loss], parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__(losses, parameters)
        self.is_feature = [not loss.compares_answers for loss in losses]

    def factors(self, progress: float) -> list[float]:
        """1.4 and 0.6 in the first half, 0.8 and 1.2 in the second; 1 where there is one group alone."""
        if all(self.is_feature) or not any(self.is_feature):
            return [1.0] * len(self.is_feature)
        features = EARLY_FEATURES if progress < HALF else 1 - LATE_TASK
        return [2 * (features if is_feature else 1 - features) for is_feature in self.is_feature]


class Uncertainty(Balance):
    """Learned log variances: objective = Σ_k [ exp(−s_k) w_k L_k + s_k / 2 ], s_k trained with the student.

    Source: Kendall et al. 2018 (arXiv 1705.07115), eq. 10, with s = log σ² as its section 3.2 advises.
    s_k is kept from −6 to 6, and learns 100 times as fast as the student, whose rates are made for weights.

    Raises:
        RecipeError: A loss that may be negative, whose variance would shrink for ever.
    """

    learning_rate_multiple = 100.0

    def __init__(self, losses: Sequence[Loss], parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__(losses, parameters)
        signed = [loss_name(loss) for loss in losses if loss.may_be_negative]
        if signed:
            raise RecipeError(
                f"balance: uncertainty is given with the loss {signed[0]!r}, whose values may be negative",
                "losses that are never negative",
                f"take hidden_mse for {signed[0]}, or set balance: gradient_norm",
            )
        self.log_variances = nn.Parameter(torch.zeros(len(losses)))

    def factors(self, progress: float) -> list[Tensor]:
        """exp(−s) with a gradient."""
        del progress
        return list((-self.log_variances.float()).exp().unbind())

    def penalty(self, position: int, share: Tensor | float) -> Tensor:
        """s / 2, once over all micro-batches and ranks."""
        return 0.5 * self.log_variances.float()[position] * share

    def after_step(self, weights: Sequence[float], num_ranks: int) -> None:
        """Keep s within its bounds, from which its gradient can lead back."""
        del weights, num_ranks
        with torch.no_grad():
            self.log_variances.clamp_(-LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)


class GradientNorm(Balance):
    """Every term pulls equally hard at the last weight matrix that all terms reach.

    Every 20 steps the norm g_k of the gradient of w_k L_k by that matrix is measured over the whole global batch; the factor of
    a term is mean(g) / g_k over running means. So weights set the size of the whole, and zero leaves a term out.
    Source: Chen et al. 2018, GradNorm (arXiv 1711.02257), its target with α = 0, solved directly instead of by gradient.
    """

    norms: Tensor
    current: Tensor
    steps: Tensor
    shared: Tensor

    def __init__(self, losses: Sequence[Loss], parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__(losses, parameters)
        self.register_buffer("norms", torch.zeros(len(losses)))
        self.register_buffer("current", torch.ones(len(losses)))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("shared", torch.tensor(NOT_LOOKED_FOR))
        self._host: tuple[int, int, list[float]] | None = None  # steps, shared and current, which no step then reads from a GPU
        self._matrices = [parameter for parameter in parameters.values() if parameter.dim() > 1]
        self._reached: dict[int, list[bool]] = {}
        self._sums: dict[int, Tensor] = {}

    def factors(self, progress: float) -> list[float]:
        """mean(g) / g_k; 1 before the first measurement."""
        del progress
        return self._known()[2]

    def measure(self, position: int, part: Tensor) -> None:
        """In the first step find out which matrices the term reaches; every 20th step add its gradient by the shared one."""
        steps, shared, _ = self._known()
        if shared == NONE or steps % MEASURED_EVERY_STEPS or not part.requires_grad:
            return
        if shared == NOT_LOOKED_FOR:
            found = torch.autograd.grad(part, self._matrices, retain_graph=True, allow_unused=True)
            self._reached[position] = [each is not None for each in found]
            return
        (gradient,) = torch.autograd.grad(part, [self._matrices[shared]], retain_graph=True, allow_unused=True)
        if gradient is not None:
            held = self._sums.get(position)
            self._sums[position] = gradient.float() if held is None else held + gradient.float()

    def after_step(self, weights: Sequence[float], num_ranks: int) -> None:
        """New factors where this step was measured."""
        steps, shared, factors = self._known()
        if shared == NOT_LOOKED_FOR:
            self._find_shared()
            return
        self._host = (steps + 1, shared, factors)
        if self._sums:
            self._update(weights, num_ranks)
        self.steps += 1

    def _known(self) -> tuple[int, int, list[float]]:
        """Steps done, the shared matrix and the factors; read from the buffers only where these changed."""
        if self._host is None:
            self._host = (int(self.steps), int(self.shared), self.current.tolist())
        return self._host

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._host = None

    def _find_shared(self) -> None:
        # a term that pulls at no matrix, such as one that learns the weights of teachers, has nothing to be balanced
        reached = [each for each in self._reached.values() if any(each)]
        self._reached = {}
        common = [index for index in range(len(self._matrices)) if all(each[index] for each in reached)] if reached else []
        self.shared.fill_(common[-1] if common else NONE)
        self._host = None
        if not common:
            logger.warning("balance: gradient_norm has no effect, no weight matrix of the student is reached by all losses")

    def _update(self, weights: Sequence[float], num_ranks: int) -> None:
        for position, total in sorted(self._sums.items()):
            if num_ranks > 1:
                torch.distributed.all_reduce(total)
            norm, held = total.norm() * abs(weights[position]), self.norms[position]
            self.norms[position] = norm if float(held) == 0 else KEPT * held + (1 - KEPT) * norm
        self._sums = {}
        known = self.norms > 0
        if int(known.sum()) > 1:
            middle = self.norms[known].mean()
            factors = (middle / self.norms.clamp(min=1e-12)).clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
            self.current.copy_(torch.where(known, factors, torch.ones_like(factors)))
            self._host = None


def known(name: str) -> str:
    """The name, which must be one of the table, or ``none``."""
    if name != OFF and name not in BALANCES:
        guess = nearest(str(name), (OFF, *BALANCES))
        accepted = ", ".join((OFF, *BALANCES))
        raise RecipeError(f"balance is {name!r}", accepted, f"write {guess!r}" if guess else f"set balance: {OFF}")
    return name


def build(name: str, losses: Sequence[Loss], parameters: Mapping[str, nn.Parameter]) -> Balance | None:
    """The balance of that name; None for ``none`` and for a single term."""
    if known(name) == OFF or len(losses) < 2:
        return None
    made: Balance = resolve(BALANCES, name, kind="balance")(losses, parameters)
    return made
