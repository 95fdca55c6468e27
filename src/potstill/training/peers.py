"""Peers: several students of one shape that train side by side, each on its labels and on what the others say.

Shapes: B batch, C classes, K peers.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, RecipeError, TrainingError
from potstill.ground.devices import frozen, seeded
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses.contract import StudentView
from potstill.models.frozen import fingerprint_of
from potstill.models.taps import Taps, head_of
from potstill.training.objective import Objective

logger = logging.getLogger(__name__)

KEY = "mutual-peers"
MOST_PEERS = 8
STARTS = ("student", "random")
MIXES = ("probability", "logits")


class Peers:
    """The student and K − 1 networks of its shape, all of which learn; the best one is kept.

    Every step each network runs once. Peer k minimises its own objective, in which the teacher is what the others say at
    that moment, without a gradient into them. For a term that is linear in the teacher's probabilities, as `kl` is, the
    mean of the others' probabilities has the same gradient as the mean over the others of the term with each.

    Args:
        count: K, with the student.
        start: What the others begin with: "student", the student's weights under a head of their own; or "random" weights.
        mix: How several others speak as one: mean of "probability", or of "logits" for answers that are no distribution.

    Source: Zhang et al. 2018, Deep Mutual Learning (arXiv 1706.00384), eq. 6 to 8 with K networks. The networks are updated
    together here; the paper's algorithm asks each network again after the update of the one before.

    Raises:
        RecipeError: A number or word outside those.
    """

    is_fixed = False
    provides = frozenset({"logits"})

    def __init__(
        self,
        count: int = 2,
        *,
        start: Literal["student", "random"] = "student",
        mix: Literal["probability", "logits"] = "probability",
    ) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= MOST_PEERS:
            raise RecipeError(f"peers is {count!r}", f"a whole number from 2 to {MOST_PEERS}", "for example peers: 2")
        for name, value, accepted in (("start", start, STARTS), ("mix", mix, MIXES)):
            if value not in accepted:
                raise RecipeError(f"{name} of peers is {value!r}", ", ".join(accepted), f"set {name} to one of them")
        self.count, self.start, self.mix = count, start, mix
        self.others = nn.ModuleList()
        self._taps: list[Taps] = []
        self._view_of: Callable[[Taps, Mapping[str, Any]], StudentView] | None = None

    @property
    def fingerprint(self) -> str:
        """Of the other networks as they are now."""
        return "-".join(fingerprint_of(other) for other in self.others)

    def can_provide(self, need: str) -> bool:
        """Logits alone: peers compare their answers."""
        return need == "logits"

    def build(
        self,
        student: nn.Module,
        needs: Collection[str],
        view_of: Callable[[Taps, Mapping[str, Any]], StudentView],
        *,
        seed: int,
    ) -> None:
        """Make the other networks, once.

        Args:
            student: The first network.
            needs: Values that the objective reads of each network.
            view_of: One forward of a network on a batch.
            seed: Network k begins from this plus k.

        Raises:
            NeedsError: The student has no head that could begin anew.
        """
        if len(self.others):
            return
        for number in range(1, self.count):
            with seeded(seed + number):
                self.others.append(_twin(student, self.start))
        self._taps = [Taps(other, needs) for other in self.others]
        self._view_of = view_of

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """What the others say to the first network, in eval mode and without gradients."""
        del needs
        with frozen(self.others):
            answers = [view.logits for view in self.views(batch)]
        return self.told([torch.empty(0), *answers], 0)

    def views(self, batch: Mapping[str, Any]) -> list[StudentView]:
        """One forward of each of the other networks."""
        return [self.view(number, batch) for number in range(2, self.count + 1)]

    def view(self, number: int, batch: Mapping[str, Any]) -> StudentView:
        """One forward of network `number`, from 2 on."""
        if self._view_of is None:
            raise TrainingError("the peers are not built", todo="give them to DistillationTrainer(peers=…)")
        return self._view_of(self._taps[number - 2], batch)

    def objective(self, objective: Objective, first: StudentView, batch: Mapping[str, Any]) -> Tensor:
        """The sum of all networks' objectives on one micro-batch; `first` is the student's view."""
        views = [first, *self.views(batch)]
        answers = [view.logits.detach().float() for view in views]
        parts = [objective(view, self.told(answers, number), batch) for number, view in enumerate(views)]
        return torch.stack(parts).sum()

    def told(self, answers: Sequence[Tensor], number: int) -> TeacherSignal:
        """What network `number` hears: the others' answers [B, C] as one."""
        others = [answer for index, answer in enumerate(answers) if index != number]
        if len(others) == 1:
            return TeacherSignal(DenseLogits(others[0]))
        stacked = torch.stack(others)
        if self.mix == "logits":
            return TeacherSignal(DenseLogits(stacked.mean(0)))
        mixed = stacked.log_softmax(-1).logsumexp(0) - math.log(len(others))
        return TeacherSignal(DenseLogits(mixed))

    def groups(self, student: nn.Module) -> list[list[nn.Parameter]]:
        """The parameters of each of the other networks, and of the student with all else that trains, which comes first."""
        others = [[parameter for parameter in other.parameters() if parameter.requires_grad] for other in self.others]
        taken = {id(parameter) for group in others for parameter in group}
        own = [parameter for parameter in student.parameters() if parameter.requires_grad and id(parameter) not in taken]
        return [own, *others]

    def hand_over(self, student: nn.Module, best: int) -> None:
        """Exchange the weights of the student and of network `best`, counted from 1, which is the student itself."""
        if best == 1:
            return
        other = self.others[best - 2]
        kept = {name: value.clone() for name, value in other.state_dict().items()}
        own = {name: value.clone() for name, value in student.state_dict().items() if name in kept}
        student.load_state_dict(kept, strict=False)
        other.load_state_dict(own)


def own_name(name: str, prefix: str) -> str:
    """A parameter's name within its network: ``_distill.mutual-peers.0.classifier.weight`` is ``classifier.weight``."""
    start = f"{prefix}{KEY}."
    return name[len(start) :].partition(".")[2] if name.startswith(start) else name


def _twin(student: nn.Module, start: str) -> nn.Module:
    twin = copy.deepcopy(student)
    if start == "random":
        _draw(twin, twin)
        return twin
    head = head_of(twin)
    if head is None:
        raise NeedsError(
            "peers that begin with the student's weights differ by their heads, and the student has no linear head",
            "a student with a final linear layer, or peers that begin from random weights",
            "set start: random",
        )
    _draw(twin, head)
    return twin


def _draw(model: nn.Module, part: nn.Module) -> None:
    """Draw the weights of a part anew, as the model's class does it, else as its layers do."""
    fresh = type(model)(copy.deepcopy(model.config)) if hasattr(model, "_init_weights") and hasattr(model, "config") else None
    if fresh is not None and part is model:
        model.load_state_dict(fresh.state_dict())
        return
    if fresh is not None:
        name = next(name for name, module in model.named_modules() if module is part)
        part.load_state_dict(fresh.get_submodule(name).state_dict())
        return
    for module in part.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
