"""Students that train beside each other: on every batch the teacher answers once, then each student takes a step of its own.

Losses, their bridges, taps and normalisation are the package's; the loop is here, because with nets this small a trainer per
student would spend its time on launches and on the same answers of the teacher over and over. No step reads the device; on a
GPU steps are recorded as graphs. What a student becomes does not depend on who is beside it: its random numbers are set by its
own seed before each of its steps.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cifar_device import DeviceRows
from method_cells import DECAY, MOMENTUM, rate_factor
from potstill.contracts.signal import TeacherSignal
from potstill.losses.contract import StudentView
from potstill.methods.contract import Phase
from potstill.models.taps import Taps
from potstill.tasks import answers_of
from potstill.training import preparation
from potstill.training.head_start import ROWS as HEAD_ROWS
from potstill.training.head_start import start_head
from potstill.training.objective import NonFiniteLoss, Objective
from potstill.training.terms import read_terms
from recorded import Desk, Lane, Recorder

TEST_ROWS = 2000  # of a batch that is only measured


@dataclass(frozen=True)
class Settings:
    """How all students of a process train.

    Args:
        batch: Rows of a batch.
        epochs: Over all stages.
        seed: Of bridges, memories and negatives.
        is_half: Whether forwards run in bfloat16.
        is_nesterov: Of SGD.
    """

    batch: int
    epochs: int
    seed: int
    is_half: bool = True
    is_nesterov: bool = True

    def precision(self, device: torch.device) -> torch.autocast:
        """The context of a forward."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.is_half)


@dataclass
class Part:
    """A stage that is ready to train."""

    objective: Objective
    taps: Taps
    counts: Tensor
    num_steps: int
    peak: float
    starts_head: bool = False
    done: int = 0


class Learner:
    """A student on its way through the stages of its method.

    Args:
        name: Of the method.
        net: The student, on its device.
        stages: Of the method, in order; the steps are shared out by their epochs.
        source: The teacher, or None for labels alone.
        rows: The training set.
        settings: See there.
        lane: Where its steps are recorded and replayed; None computes each eagerly.

    Attributes:
        fault: Why it stopped, where a loss was not finite.
    """

    def __init__(
        self,
        name: str,
        net: nn.Module,
        stages: Sequence[Phase],
        source: Any,
        rows: DeviceRows,
        settings: Settings,
        lane: Lane | None = None,
    ) -> None:
        self.name, self.net, self.settings, self.lane = name, net, settings, lane
        self.device = next(net.parameters()).device
        self.fault: str | None = None
        self._done = 0
        self._source, self._rows = source, rows
        self._roles = preparation.student_modules(net)
        num_steps = settings.epochs * (len(rows) // settings.batch)
        shares = _shares([stage.epochs for stage in stages], num_steps)
        probe = {key: value[: preparation.PROBE_ROWS] for key, value in next(rows.epoch(0, settings.batch)).items()}
        self._parts = [self._prepared(stage, share, source, probe, len(rows)) for stage, share in zip(stages, shares)]
        self._optimizer = self._new_optimizer()
        self._recorder = None if lane is None else Recorder(lane, self._clear)
        net.train()

    def _prepared(self, stage: Phase, num_steps: int, source: Any, probe: dict[str, Tensor], num_rows: int) -> Part:
        """As `DistillationTrainer.prepare`: needs are checked, shapes learned from a few rows, bridges built."""
        terms = read_terms(stage.losses())
        preparation.check_needs(terms, self.net, source)
        preparation.check_batch(terms, probe)
        objective = Objective(terms, self.device)
        objective.checks_at_once = False
        objective.checks_batches = self.lane is None
        taps = Taps(self.net, objective.needs_student())
        student = preparation.shapes_of_student(taps, {"pixel_values": probe["pixel_values"]}, answers_of(self.net), probe)
        teacher = preparation.shapes_of_teacher(source, probe, terms)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            for term in terms:
                term.loss.prepare(student, teacher if term.loss.needs_teacher() else None, num_rows=num_rows)
        objective.modules.to(self.device)
        # every row has a label, so the counts of a batch are known before there is one, and nothing has to be read back
        counts = objective.count([{"labels": torch.zeros(self.settings.batch, dtype=torch.int64)}])
        return Part(objective, taps, counts, num_steps, stage.learning_rate, stage.settings.get("starts_head", False))

    @property
    def part(self) -> Part:
        """The stage that comes next or goes on."""
        return self._parts[0]

    def needs_teacher(self) -> tuple[str, ...]:
        """What this step reads of the teacher, once it has begun."""
        return self.part.objective.active_needs_teacher()

    def begin(self) -> None:
        """Turn to the next stage where one has ended, and set weights, temperatures and learning rate of this step."""
        if self.part.done >= self.part.num_steps and len(self._parts) > 1:
            self.check()
            self._parts.pop(0)
            if self.part.starts_head:
                start_head(self.net, self._source, self._some())
            self._optimizer = self._new_optimizer()
        part = self.part
        part.objective.begin_step(part.done / part.num_steps, part.counts)
        for group in self._optimizer.param_groups:
            group["lr"] = part.peak * rate_factor(part.done / part.num_steps, part.num_steps)

    def _some(self) -> Iterator[dict[str, Tensor]]:
        size = min(self.settings.batch, len(self._rows))
        return (batch for batch, _ in itertools.islice(self._rows.plain(size), math.ceil(HEAD_ROWS / size)))

    def step(self, batch: dict[str, Tensor], signal: TeacherSignal | None) -> None:
        """One step of the optimizer, once it has begun; nothing is read back from the device."""
        part = self.part
        torch.manual_seed(1_000_003 * self.settings.seed + self._done)
        if self._recorder is None:
            self._clear()
            self._compute(batch, signal)
        else:
            self._recorder.run(self._fixed(), lambda: self._compute(batch, signal))
        self._optimizer.step()
        part.done += 1
        self._done += 1

    def _compute(self, batch: dict[str, Tensor], signal: TeacherSignal | None) -> None:
        """Add the gradients of the objective on one batch."""
        with self.settings.precision(self.device):
            loss = self.loss(batch, signal)
        loss.backward()

    def _clear(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def _fixed(self) -> Hashable:
        """What a recording of this step fixes: the stage, and weights and temperatures of its terms."""
        heats = (getattr(term.loss, "temperature", None) for term in self.part.objective.terms)
        weights = (weight for _, weight in self.part.objective.active_terms())
        return len(self._parts), tuple(weights), tuple(heats)

    def loss(self, batch: dict[str, Tensor], signal: TeacherSignal | None) -> Tensor:
        """The objective on one batch."""
        logits, values = self.part.taps.run({"pixel_values": batch["pixel_values"]})
        return self.part.objective(StudentView(logits, values, modules=self._roles), signal, batch)

    def _new_optimizer(self) -> torch.optim.SGD:
        """SGD over the student and what trains of the stage's losses."""
        modules = (self.net, self.part.objective.modules)
        parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
        return torch.optim.SGD(
            parameters,
            lr=self.part.peak,
            momentum=MOMENTUM,
            weight_decay=DECAY,
            nesterov=self.settings.is_nesterov,
            fused=self.device.type == "cuda",
        )

    def check(self) -> None:
        """Read the device: where a loss since the last time was not finite, this student stops here."""
        try:
            self.part.objective.check()
        except NonFiniteLoss as err:
            self.fault = self.fault or f"{' and '.join(err.terms)} not finite near step {self._done}"

    @torch.no_grad()
    def num_right(self, tests: DeviceRows) -> Tensor:
        """How many test images it gets right, on the device."""
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        with self._resting(), self.settings.precision(self.device):
            for batch, num_new in tests.plain(TEST_ROWS):
                hits = self.net(batch["pixel_values"]).argmax(-1) == batch["labels"]
                right += hits[-num_new:].sum()
        return right

    @contextlib.contextmanager
    def _resting(self) -> Iterator[None]:
        self.net.eval()
        try:
            yield
        finally:
            self.net.train()


def answer(source: Any, learners: Sequence[Learner], batch: dict[str, Tensor]) -> TeacherSignal | None:
    """What the teacher says of a batch, all that any of the learners reads of it; None where none does."""
    needs = tuple(dict.fromkeys(need for learner in learners for need in learner.needs_teacher()))
    return source.signal(batch, sorted(needs)) if needs else None


def step_all(source: Any, learners: Sequence[Learner], batch: dict[str, Tensor], desk: Desk | None = None) -> None:
    """One step of every learner that has not stopped.

    Args:
        source: The teacher.
        learners: All with a lane, or none.
        batch: Of `DeviceRows`.
        desk: Where recordings read; the same one in all steps of learners with lanes.
    """
    active = [learner for learner in learners if learner.fault is None]
    for learner in active:
        learner.begin()
    signal = answer(source, active, batch)
    if desk is not None:
        batch, signal = desk.batch(batch), desk.signal(signal)
    for learner in active:
        with contextlib.nullcontext() if learner.lane is None else learner.lane.turn():
            learner.step(batch, signal)
    for lane in {learner.lane for learner in active if learner.lane is not None}:
        lane.join()


def train_epoch(source: Any, learners: Sequence[Learner], rows: DeviceRows, number: int, desk: Desk | None = None) -> None:
    """All batches of an epoch; see `step_all`."""
    for batch in rows.epoch(number, learners[0].settings.batch):
        step_all(source, learners, batch, desk)


def measure(learners: Sequence[Learner], tests: DeviceRows) -> list[float]:
    """Accuracy of each on the test images; the device is read once, and losses that were not finite are found."""
    right = torch.stack([learner.num_right(tests) for learner in learners]).tolist()
    for learner in learners:
        learner.check()
    return [count / len(tests) for count in right]


def _shares(epochs: Sequence[float], num_steps: int) -> list[int]:
    """`num_steps` shared out by epochs, every stage at least one."""
    ends, total = [], sum(epochs)
    for number in range(len(epochs)):
        end = round(num_steps * sum(epochs[: number + 1]) / total)
        ends.append(max(end, (ends[-1] if ends else 0) + 1))
    return [end - start for start, end in zip([0, *ends], ends)]
