"""Peers: several students of one shape that train together, each on its labels and on the answers of the others.

Shapes: B batch, C classes, K peers.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import require
from potstill.errors import NeedsError, RecipeError, TrainingError
from potstill.ground.devices import frozen, seeded
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses.contract import StudentView
from potstill.models.frozen import fingerprint_of
from potstill.models.taps import Taps, head_of
from potstill.training.companions.contract import Companion, Compute, Host
from potstill.training.terms import Term

logger = logging.getLogger(__name__)

MOST_PEERS = 8
STARTS = ("student", "random")
MIXES = ("probability", "logits")


class Peers(Companion):
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

    key = "mutual-peers"
    title = "peers"
    replaces_teacher = reads_answers = True
    default_losses = ({"name": "kl", "temperature": 1.0}, {"name": "ce"})
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
        self._host: Host | None = None

    @property
    def fingerprint(self) -> str:
        """Of the other networks as they are now."""
        return "-".join(fingerprint_of(other) for other in self.others)

    def can_provide(self, need: str) -> bool:
        """Logits alone: peers compare their answers."""
        return need == "logits"

    def check(self, given: Collection[str]) -> None:
        """Refuse a teacher, an average, or a balance of terms."""
        if given:
            raise TrainingError(
                f"peers are given together with {' and '.join(given)}",
                "peers that teach one another, or a teacher, or an average of the student",
                f"leave {' and '.join(given)} out, or peers",
            )

    def check_terms(self, terms: Sequence[Term]) -> None:
        """All peers share the objective, so none of its losses may hold something of one network."""
        for term in terms:
            inner = [need for need in (*term.loss.needs_student(), *term.loss.needs_teacher()) if need != "logits"]
            if inner or any(True for _ in term.loss.parameters()):
                raise NeedsError(
                    f"loss {term.name!r} {f'reads {inner[0]!r}' if inner else 'has parts that train'}, and peers compare logits",
                    "losses on logits, such as 'kl', and on labels, such as 'ce'",
                    f"leave {term.name!r} out, or train without peers",
                )

    def source(self, teacher: Any) -> Any:
        """The peers themselves."""
        return self

    def build(self, host: Host) -> None:
        """Make the other networks, once; network k begins from the seed plus k.

        Raises:
            NeedsError: The student has no head that could begin anew.
        """
        if len(self.others):
            return
        for number in range(1, self.count):
            with seeded(host.args.seed + number):
                self.others.append(_twin(host.model, self.start))
        self.networks = [Taps(other, host.objective.needs_student()) for other in self.others]
        self._host = host

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """The answers of the others for the first network, in eval mode and without gradients.

        Raises:
            NeedsError: More than logits is asked for.
        """
        require(needs, self.can_provide, source="a peer", remedy="take losses on logits, or train without peers")
        with frozen(self.others):
            answers = [view.logits for view in self.views(batch)]
        return self.teaching([torch.empty(0), *answers], 0)

    def training_signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """Nothing yet: the objective asks all networks itself."""
        del batch, needs
        return TeacherSignal()

    def views(self, batch: Mapping[str, Any]) -> list[StudentView]:
        """One forward of each of the other networks."""
        if self._host is None:
            raise TrainingError("the peers are not built", todo="give them to DistillationTrainer(peers=…)")
        return [self._host.view_of(network, batch) for network in self.networks]

    def objective(self, plain: Compute) -> Compute:
        """The sum of all networks' objectives on one micro-batch."""

        def compute(first: StudentView, _: TeacherSignal | None, batch: Mapping[str, Any]) -> Tensor:
            views = [first, *self.views(batch)]
            answers = [view.logits.detach().float() for view in views]
            parts = [plain(view, self.teaching(answers, number), batch) for number, view in enumerate(views)]
            return torch.stack(parts).sum()

        return compute

    def teaching(self, answers: Sequence[Tensor], number: int) -> TeacherSignal:
        """The answers [B, C] of all networks but `number` as one teacher's."""
        others = [answer for index, answer in enumerate(answers) if index != number]
        if len(others) == 1:
            return TeacherSignal(DenseLogits(others[0]))
        stacked = torch.stack(others)
        if self.mix == "logits":
            return TeacherSignal(DenseLogits(stacked.mean(0)))
        mixed = stacked.log_softmax(-1).logsumexp(0) - math.log(len(others))
        return TeacherSignal(DenseLogits(mixed))

    def end(self, host: Host) -> None:
        """Leave the network in the model that the evaluation of the kept weights found best."""
        best = _best(host.state, at_best=host.args.load_best_model_at_end)
        self.hand_over(host.model, best)
        logger.info("network %d of %d peers is kept", best, self.count)

    def hand_over(self, student: nn.Module, best: int) -> None:
        """Exchange the weights of the student and of network `best`, counted from 1, which is the student itself."""
        if best == 1:
            return
        other = self.others[best - 2]
        kept = {name: value.clone() for name, value in other.state_dict().items()}
        own = {name: value.clone() for name, value in student.state_dict().items() if name in kept}
        student.load_state_dict(kept, strict=False)
        other.load_state_dict(own)


def _best(state: Any, *, at_best: bool) -> int:
    """Which network, from 1, the evaluation of the kept weights found best; 1 where there was none."""
    measured = [entry for entry in state.log_history if "eval_best_peer" in entry]
    if not measured:
        return 1
    if at_best and state.best_model_checkpoint is not None:
        step = int(str(state.best_model_checkpoint).rpartition("-")[2])
        measured = [entry for entry in measured if entry["step"] == step] or measured
    return int(measured[-1]["eval_best_peer"])


def _twin(student: nn.Module, start: str) -> nn.Module:
    twin = copy.deepcopy(student)
    part = twin if start == "random" else head_of(twin)
    if part is None:
        raise NeedsError(
            "peers that begin with the student's weights differ by their heads, and the student has no linear head",
            "a student with a final linear layer, or peers that begin from random weights",
            "set start: random",
        )
    _draw(twin, part)
    return twin


def _draw(model: nn.Module, part: nn.Module) -> None:
    """Draw the weights of a part anew, as the model's class does it, else as its layers do."""
    if hasattr(model, "_init_weights") and hasattr(model, "config"):
        fresh = type(model)(copy.deepcopy(model.config))
        name = next(name for name, module in model.named_modules() if module is part)
        part.load_state_dict(fresh.get_submodule(name).state_dict())
        return
    for module in part.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
