"""Time and memory of the losses, against the formulations that public code uses, and per training step against kl.

    python benchmarks/losses.py                    # both tables
    python benchmarks/losses.py --part formulations --only cc nst
    python benchmarks/losses.py --part step --size 64 --batch 128 --device cuda

The plain formulations are in loss_contests.py. Both sides run on the same inputs, in turns of at least 50 ms each, so that
neither profits from what the other left in the caches, nor from a quiet minute. A time is the least over the turns, of CPU time
on a CPU (run with OMP_NUM_THREADS=1) and of wall time on a GPU; beside the ratio of the least CPU times stand the median
over the rounds of the ratio of both sides' turns, and the ratio of the least wall times. Memory is the peak of tensors held
beyond the inputs. "forward" computes the value as a training step does; crd, cc and rkd_angle make their gradient with it.
The second table has the step of the student alone, and with the forward pass of a ResNet-34 teacher, as a run without
cached answers has it; its measurements take turns too.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from loss_contests import CONTESTS, Contest
from potstill import losses
from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses.contract import Shapes, StudentView


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors alive that were made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {value.untyped_storage()._cdata for value in _tensors(args)}
        result = func(*args, **(kwargs or {}))
        for value in _tensors((result,)):
            storage = value.untyped_storage()
            if storage._cdata in given or storage._cdata in self.seen:
                continue
            self.seen.add(storage._cdata)
            self.alive += storage.nbytes()
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return result

    def _free(self, key: int, size: int) -> None:
        self.alive -= size
        self.seen.discard(key)


def _tensors(values: Any) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(_tensors(value))
    return found


class Seconds(NamedTuple):
    """Time of one call; on a GPU both are of the wall."""

    wall: float
    cpu: float


Side = tuple[Callable[[], Tensor], Sequence[Tensor]]  # what is computed, and the leaves that get gradients
TURN_SECONDS = 0.05


def turn(side: Side, calls: int, *, with_gradient: bool = True) -> Seconds:
    """Mean over calls of one forward (and backward), gradients thrown away before each."""
    function, leaves = side
    is_gpu = leaves[0].is_cuda
    if is_gpu:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        for leaf in leaves:
            leaf.grad = None
        value = function()
        if with_gradient:
            value.backward()
    if is_gpu:
        torch.cuda.synchronize()
    wall, cpu = (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls
    return Seconds(wall, wall if is_gpu else cpu)


def calls_of(side: Side, *, with_gradient: bool = True) -> int:
    """Calls that fill a turn; the first call is not counted."""
    turn(side, 1, with_gradient=with_gradient)
    return max(1, math.ceil(TURN_SECONDS / turn(side, 1, with_gradient=with_gradient).cpu))


def peak_bytes(side: Side, *, with_gradient: bool) -> int:
    """Peak of what one forward (and backward) holds."""
    function, leaves = side
    for leaf in leaves:
        leaf.grad = None
    with PeakBytes() as peak:
        value = function()
        if with_gradient:
            value.backward()
    return peak.peak


def formulations(device: str, repeats: int, only: Sequence[str]) -> None:
    """The first table."""
    heads = ("plain ms", "ours ms", "CPU", "median", "wall", "plain MB", "ours MB", "memory", "rel diff")
    print(f"{'loss':<22} {'shapes':<34} {'passes':<9}" + "".join(f"{head:>10}" for head in heads))
    for make in CONTESTS:
        contest = make(device)
        if only and not any(contest.name.startswith(name) for name in only):
            continue
        for with_gradient in (False, True):
            contend(contest, repeats, with_gradient)


def contend(contest: Contest, repeats: int, with_gradient: bool) -> None:
    """One row of the first table."""
    sides: list[Side] = [(function, contest.leaves) for function in (contest.plain, contest.ours)]
    values = [float(function().detach()) for function, _ in sides]
    calls = [calls_of(side, with_gradient=with_gradient) for side in sides]
    rounds = [[turn(side, count, with_gradient=with_gradient) for side, count in zip(sides, calls)] for _ in range(repeats)]
    plain, ours = (Seconds(min(each.wall for each in turns), min(each.cpu for each in turns)) for turns in zip(*rounds))
    median = statistics.median(theirs.cpu / own.cpu for theirs, own in rounds)
    memory = [peak_bytes(side, with_gradient=with_gradient) / 1e6 for side in sides]
    print(
        f"{contest.name:<22} {contest.shapes:<34} {'both' if with_gradient else 'forward':<9}"
        f"{1e3 * plain.cpu:>10.2f}{1e3 * ours.cpu:>10.2f}"
        f"{plain.cpu / ours.cpu:>9.1f}x{median:>9.1f}x{plain.wall / ours.wall:>9.1f}x"
        f"{memory[0]:>10.1f}{memory[1]:>10.2f}{memory[0] / memory[1]:>9.0f}x"
        f"{abs(values[0] - values[1]) / max(abs(values[0]), 1e-12):>10.1e}",
        flush=True,
    )


def step(device: str, repeats: int, batch: int, size: int, only: Sequence[str]) -> None:
    """The second table: a ResNet-18 student step with each loss, over the same step with kl."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    options = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "embedding_size": 64, "num_labels": 100}
    models = [ResNetForImageClassification(ResNetConfig(depths=depths, **options)) for depths in ([2, 2, 2, 2], [3, 4, 6, 3])]
    model, teacher = models[0].to(device).train(), models[1].to(device).eval()
    pixels = torch.randn(batch, 3, size, size, device=device)
    with torch.no_grad():
        stages = [tuple(value.shape) for value in model(pixels, output_hidden_states=True).hidden_states[1:]]

    @torch.inference_mode()
    def ahead() -> Tensor:
        return teacher(pixels).logits

    sides: dict[str, tuple[Side, bool]] = {
        "bare": ((lambda: model(pixels).logits.square().mean(), tuple(model.parameters())), True),
        "ahead": ((ahead, (pixels,)), False),
    }
    inputs = StageInputs(stages, batch, device)
    for name in losses.names():
        if only and name not in (*only, "kl"):
            continue
        side = inputs.side(name)
        if side is not None and side[0]().requires_grad:  # else it found nothing to learn in random rows
            sides[name] = side, True
    calls = {name: calls_of(side, with_gradient=graded) for name, (side, graded) in sides.items()}
    costs = dict.fromkeys(sides, math.inf)
    for _ in range(repeats):
        for name, (side, graded) in sides.items():
            costs[name] = min(costs[name], turn(side, calls[name], with_gradient=graded).cpu)
    bare, ahead_seconds = costs.pop("bare"), costs.pop("ahead")
    grids = [list(shape[1:]) for shape in stages]
    print(f"\nResNet-18, batch {batch}, {size} × {size}, stages {grids}: bare step {1e3 * bare:.0f} ms")
    print(f"ResNet-34 teacher of the same widths, forward: {1e3 * ahead_seconds:.0f} ms; losses over tokens are left out\n")
    print("| loss | ms | step over the step with kl | with the teacher's forward |\n|---|---|---|---|")
    for name, cost in sorted(costs.items(), key=lambda item: item[1]):
        alone, taught = ((whole + cost) / (whole + costs["kl"]) for whole in (bare, bare + ahead_seconds))
        print(f"| `{name}` | {1e3 * cost:.1f} | {alone:.2f} | {taught:.2f} |")


class StageInputs:
    """Random values of both networks' stages, shared by all losses."""

    def __init__(self, stages: list[tuple[int, ...]], batch: int, device: str) -> None:
        self.stages, self.batch, self.device = stages, batch, device
        self.shapes = {f"hidden:-{len(stages) - index}": shape for index, shape in enumerate(stages)}
        self.shapes["head.in"] = (batch, stages[-1][1])
        self.student = {need: torch.rand(shape, device=device).requires_grad_() for need, shape in self.shapes.items()}
        self.teacher = {need: torch.rand(shape, device=device) for need, shape in self.shapes.items()}
        self.logits = torch.randn(batch, 100, device=device).requires_grad_()
        self.teacher_logits = torch.randn(batch, 100, device=device)
        self.classes = torch.randint(100, (batch,), device=device)
        self.rows = torch.arange(batch, device=device)

    def side(self, name: str) -> Side | None:
        """The loss on these values; None where they are not what it needs."""
        loss = losses.build(name)
        if (
            any(need.split(":")[0] in ("attention", "query", "value", "embedding") for need in loss.needs_student())
            or name == "pkd"
        ):
            return None
        loss.to(self.device)
        told = Shapes(self.shapes, (self.batch, 100))
        try:
            loss.prepare(told, told, num_rows=50_000)
        except NeedsError:
            return None
        loss.to(self.device).train()
        taps = {need: self.student[need] for need in loss.needs_student() if need in self.shapes}
        theirs = {need: self.teacher[need] for need in loss.needs_teacher() if need in self.shapes}
        is_graded = name in ("regression", "bounded_regression", "bce")
        labels = torch.randn(self.batch, 100, device=self.device) if is_graded else self.classes
        view, signal = StudentView(self.logits, taps), TeacherSignal(DenseLogits(self.teacher_logits), theirs)
        rows = {"labels": labels, "row_id": self.rows, "row_index": self.rows}
        return (lambda: loss(view, signal, rows).sum), (self.logits, *taps.values(), *loss.parameters())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["all", "formulations", "step"], default="all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--only", nargs="+", default=(), help="names of losses (of the first table: how they begin)")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} thread(s), {options.repeats} turns\n")
    if options.part in ("all", "formulations"):
        formulations(options.device, options.repeats, options.only)
    if options.part in ("all", "step"):
        step(options.device, options.repeats, options.batch, options.size, options.only)


if __name__ == "__main__":
    main()
