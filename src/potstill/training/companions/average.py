"""The moving average of the student's weights: evaluated and saved instead of them, and a teacher of the student."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import require
from potstill.errors import TrainingError
from potstill.ground.devices import frozen
from potstill.knowledge.responses.dense import DenseLogits
from potstill.models.frozen import fingerprint_of
from potstill.models.taps import Taps
from potstill.training.companions.contract import Companion, Host


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

    @contextlib.contextmanager
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


class Averaging(Companion):
    """The moving average of the student's weights is evaluated, saved and kept, while the raw weights train on.

    Args:
        decay: See `WeightAverage`.
    """

    key = "raw"
    title = "weight averaging"

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: WeightAverage | None = None

    def begin(self, host: Host) -> None:
        """The average starts at the student's weights."""
        self.average = WeightAverage(host.model, self.decay)

    def after_step(self) -> None:
        """Follow the weights."""
        if self.average is not None:
            self.average.update()

    def weights(self) -> contextlib.AbstractContextManager[None]:
        """The average, while there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def after_last_step(self) -> None:
        """The average stays in the model for good."""
        if self.average is not None:
            self.average.keep()
            self.average = None

    def state(self) -> dict[str, Tensor]:
        """The raw weights; the averages are the saved student itself."""
        return {} if self.average is None else self.average.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The raw weights into the model, and its present ones into the average."""
        if self.average is not None:
            self.average.restore(state)


class SelfAverage(Companion):
    """The moving average of the student's weights as its teacher, as in `mean_teacher`.

    The average is that of `DistillationTrainer(average_decay=…)`, so it is what is evaluated, saved and delivered, and it is
    restored with a checkpoint. It has no weights of its own: the student runs a second time with the averaged ones inside.

    Args:
        noise: The average answers with dropout of its own draw, as the student does; its norms use their running statistics.

    Source: Tarvainen and Valpola 2017 (arXiv 1703.01780), section 2 and eq. 2.
    """

    replaces_teacher = wants_dropout = True
    is_fixed = False
    provides = frozenset({"logits"})

    def __init__(self, *, noise: bool = True) -> None:
        self.noise = noise
        self._host: Host | None = None

    @property
    def fingerprint(self) -> str:
        """Of the student as it is now."""
        return fingerprint_of(self._followed().model)

    def can_provide(self, need: str) -> bool:
        """Logits alone."""
        return need == "logits"

    def source(self, teacher: Any) -> Any:
        """The average itself."""
        return self

    def build(self, host: Host) -> None:
        """Answer for the student of this trainer from now on."""
        self._host = host

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """The student as it stands, in eval mode.

        Raises:
            NeedsError: More than logits is asked for.
        """
        require(needs, self.can_provide, source="the student's average", remedy="take losses on logits, or a teacher")
        return self._answer(batch, noise=False)

    def training_signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """The averaged student."""
        del needs
        averages = [one.average for one in self._followed().companions if isinstance(one, Averaging)]
        if not averages or averages[0] is None:
            raise TrainingError(
                "the teacher is the student's average, and no average is kept",
                "average_decay, a number between 0 and 1",
                "set average_decay=0.999",
            )
        with averages[0].applied():
            return self._answer(batch, noise=self.noise)

    def _answer(self, batch: Mapping[str, Any], *, noise: bool) -> TeacherSignal:
        host = self._followed()
        with _in_eval_mode(host.model, noise=noise):
            return TeacherSignal(DenseLogits(host.view_of(Taps(host.model, ()), batch).logits.float()))

    def _followed(self) -> Host:
        if self._host is None:
            raise TrainingError("the average follows no student", todo="give it to DistillationTrainer as teacher=SelfAverage()")
        return self._host


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module, *, noise: bool) -> Iterator[None]:
    """`frozen`, but where there is noise everything that trains does so, dropout within attention too; norms over rows do not."""
    noisy = [part for part in model.modules() if part.training and not isinstance(part, nn.modules.batchnorm._NormBase)]
    with frozen(model):
        for part in noisy if noise else ():
            part.training = True
        yield
