"""Time and memory of the losses, against the formulations that public code uses, and per training step against kl.

    python benchmarks/losses.py                    # both tables
    python benchmarks/losses.py --part formulations
    python benchmarks/losses.py --part step --size 64 --batch 128 --device cuda

The plain formulations below are written from the papers in the way the public ones compute: differences by broadcasting,
gathered copies of a memory, loops over rows (written one by one into a matrix) and channels. Both sides run on the same
inputs, in turns; a time is the median, of CPU time on a CPU (run with OMP_NUM_THREADS=1) and of wall time on a GPU.
Memory is the peak of tensors held beyond the inputs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from potstill import losses
from potstill.losses import functional
from potstill.losses.contract import Shapes, StudentView
from potstill.losses.contrast import MemoryScores
from potstill.teacher.signal import DenseLogits, TeacherSignal


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


@dataclass(frozen=True)
class Contest:
    """One loss in both formulations, as functions of no argument that return a scalar."""

    name: str
    shapes: str
    plain: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    leaf: Tensor


def crd(device: str) -> Contest:
    rows, negatives, width, batch = 50_000, 16_384, 128, 64
    memory = F.normalize(torch.randn(rows, width, device=device), dim=-1)
    index = torch.randint(rows, (batch, negatives + 1), device=device)
    leaf = F.normalize(torch.randn(batch, width, device=device), dim=-1).requires_grad_()
    updated = torch.arange(batch, device=device)

    def plain() -> Tensor:
        gathered = memory.index_select(0, index.view(-1)).view(batch, negatives + 1, width)
        return torch.bmm(gathered, leaf.unsqueeze(2)).sum()

    def ours() -> Tensor:
        return MemoryScores.apply(leaf, memory, index, updated).sum()

    return Contest("crd scores", f"N {rows}, K {negatives}, E {width}, B {batch}", plain, ours, leaf)


def nst(device: str) -> Contest:
    leaf = torch.rand(16, 128, 8, 8, device=device).requires_grad_()
    teacher = torch.rand(16, 128, 8, 8, device=device)

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        return (first.unsqueeze(2) * second.unsqueeze(1)).sum(-1).pow(2).mean()

    def plain() -> Tensor:
        s, t = (F.normalize(value.flatten(2), dim=2) for value in (leaf, teacher))
        return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)

    return Contest("nst", "B 16, C 128, 8 × 8", plain, lambda: functional.nst(leaf, teacher), leaf)


def fsp(device: str) -> Contest:
    leaf = torch.rand(16, 64, 32, 32, device=device).requires_grad_()
    second, first_teacher, second_teacher = (torch.rand(16, c, 32, 32, device=device) for c in (128, 64, 128))

    def flow(first: Tensor, other: Tensor) -> Tensor:
        return (first.flatten(2).unsqueeze(2) * other.flatten(2).unsqueeze(1)).mean(-1)

    def plain() -> Tensor:
        return (flow(leaf, second) - flow(first_teacher, second_teacher)).pow(2).mean()

    return Contest(
        "fsp", "B 16, C 64 and 128, 32 × 32", plain, lambda: functional.fsp(leaf, second, first_teacher, second_teacher), leaf
    )


def rkd_angle(device: str) -> Contest:
    leaf = torch.randn(48, 4096, device=device).requires_grad_()
    teacher = torch.randn(48, 4096, device=device)

    def angles(rows: Tensor) -> Tensor:
        unit = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), p=2, dim=2)
        return torch.bmm(unit, unit.transpose(1, 2)).view(-1)

    def plain() -> Tensor:
        return F.smooth_l1_loss(angles(leaf), angles(teacher))

    return Contest("rkd_angle", "B 48, D 4096", plain, lambda: functional.rkd_angle(leaf, teacher), leaf)


def affinity(device: str) -> Contest:
    leaf = torch.rand(4, 32, 24, 24, device=device).requires_grad_()
    teacher = torch.rand(4, 32, 24, 24, device=device)

    def plain() -> Tensor:
        total = leaf.new_zeros(())
        for channel in range(32):
            s, t = (F.normalize(value[:, channel].flatten(1), dim=1) for value in (leaf, teacher))
            outer = torch.bmm(s.unsqueeze(2), s.unsqueeze(1)) - torch.bmm(t.unsqueeze(2), t.unsqueeze(1))
            total = total + torch.norm(outer, dim=(1, 2)).mean() / (24 * 24)
        return total / 32

    return Contest(
        "affinity (channels)", "B 4, C 32, 24 × 24", plain, lambda: functional.affinity(leaf, teacher, over="channels"), leaf
    )


def cc(device: str) -> Contest:
    leaf = torch.randn(256, 128, device=device).requires_grad_()
    teacher = torch.randn(256, 128, device=device)

    def kernel(rows: Tensor) -> Tensor:
        unit = F.normalize(rows, dim=1)
        matrix = rows.new_zeros(len(rows), len(rows))
        for place, row in enumerate(unit):
            similarity = (unit * row).sum(1)
            terms = [math.exp(-0.8) * 0.8**p / math.factorial(p) * similarity**p for p in range(3)]
            matrix[place] = terms[0] + terms[1] + terms[2]
        return matrix

    def plain() -> Tensor:
        return (kernel(leaf) - kernel(teacher)).pow(2).mean()

    return Contest("cc", "B 256, D 128", plain, lambda: functional.cc(leaf, teacher), leaf)


def seconds(function: Callable[[], Tensor], leaf: Tensor, *, with_gradient: bool = True) -> float:
    """Time of one forward (and backward): of the processor on a CPU, so that other work does not count, else of the wall."""
    clock = time.perf_counter if leaf.is_cuda else time.process_time
    leaf.grad = None
    _wait(leaf)
    start = clock()
    value = function()
    if with_gradient:
        value.backward()
    _wait(leaf)
    return clock() - start


def _wait(value: Tensor) -> None:
    if value.is_cuda:
        torch.cuda.synchronize()


def peak_bytes(function: Callable[[], Tensor], leaf: Tensor, *, with_gradient: bool) -> int:
    """Peak of what one forward (and backward) holds."""
    leaf.grad = None
    with PeakBytes() as peak:
        value = function()
        if with_gradient:
            value.backward()
    return peak.peak


def formulations(device: str, repeats: int) -> None:
    """The first table."""
    heads = ("plain ms", "ours ms", "speed", "plain MB", "ours MB", "memory", "max diff")
    print(f"{'loss':<20} {'shapes':<34} {'passes':<9}" + "".join(f"{head:>10}" for head in heads))
    for make in (crd, nst, fsp, rkd_angle, affinity, cc):
        contest = make(device)
        for with_gradient in (False, True):
            contend(contest, repeats, with_gradient)


def contend(contest: Contest, repeats: int, with_gradient: bool) -> None:
    """One row of the first table."""
    sides = (contest.plain, contest.ours)
    values = [float(function().detach()) for function in sides]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, each in zip(sides, times):
            each.append(seconds(function, contest.leaf, with_gradient=with_gradient))
    plain, ours = (1e3 * statistics.median(each) for each in times)
    memory = [peak_bytes(function, contest.leaf, with_gradient=with_gradient) / 1e6 for function in sides]
    print(
        f"{contest.name:<20} {contest.shapes:<34} {'both' if with_gradient else 'forward':<9}"
        f"{plain:>10.2f}{ours:>10.2f}{plain / ours:>9.1f}x{memory[0]:>10.1f}{memory[1]:>10.2f}"
        f"{memory[0] / memory[1]:>9.0f}x{abs(values[0] - values[1]):>10.1e}",
        flush=True,
    )


def step(device: str, repeats: int, batch: int, size: int) -> None:
    """The second table: a ResNet-18 student step with each loss, over the same step with kl."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    widths, depths = [64, 128, 256, 512], [2, 2, 2, 2]
    config = ResNetConfig(layer_type="basic", hidden_sizes=widths, depths=depths, embedding_size=64, num_labels=100)
    model = ResNetForImageClassification(config).to(device).train()
    pixels = torch.randn(batch, 3, size, size, device=device)
    output = model(pixels, output_hidden_states=True)
    stages = [tuple(value.shape) for value in output.hidden_states[1:]]
    bare = statistics.median(seconds(lambda: model(pixels).logits.square().mean(), pixels) for _ in range(3))
    grids = [list(shape[1:]) for shape in stages]
    print(f"\nResNet-18, batch {batch}, {size} × {size}, stages {grids}: bare step {1e3 * bare:.0f} ms")
    print("a teacher of the same widths; losses over tokens are left out\n")
    costs: dict[str, float] = {}
    for name in losses.names():
        made = prepared(name, stages, batch, device)
        if made is None:
            continue
        function, leaf = made
        costs[name] = statistics.median(seconds(function, leaf) for _ in range(repeats))
    reference = bare + costs["kl"]
    print(f"{'loss':<20} {'ms':>9} {'step over kl step':>18}")
    for name, cost in sorted(costs.items(), key=lambda item: item[1]):
        print(f"{name:<20} {1e3 * cost:>9.2f} {(bare + cost) / reference:>17.2f}x")


def prepared(name: str, stages: list[tuple[int, ...]], batch: int, device: str) -> tuple[Callable[[], Tensor], Tensor] | None:
    """A forward of the loss on random values of these shapes; None where it needs tokens."""
    loss = losses.build(name)
    if any(need.split(":")[0] in ("attention", "query", "value", "embedding") for need in loss.needs_student()) or name == "pkd":
        return None
    shapes = {f"hidden:-{len(stages) - index}": shape for index, shape in enumerate(stages)}
    shapes["head.in"] = (batch, stages[-1][1])
    loss.to(device)
    told = Shapes(shapes, (batch, 100))
    loss.prepare(told, told, num_rows=50_000)
    loss.to(device).train()
    leaves = {need: torch.rand(shapes[need], device=device).requires_grad_() for need in loss.needs_student() if need in shapes}
    theirs = {need: torch.rand(shapes[need], device=device) for need in loss.needs_teacher() if need in shapes}
    logits = torch.randn(batch, 100, device=device).requires_grad_()
    is_graded = name in ("regression", "bounded_regression", "bce")
    labels = torch.randn(batch, 100, device=device) if is_graded else torch.randint(100, (batch,), device=device)
    view, signal = StudentView(logits, leaves), TeacherSignal(DenseLogits(torch.randn(batch, 100, device=device)), theirs)
    rows = {"labels": labels, "row_id": torch.arange(batch, device=device), "row_index": torch.arange(batch, device=device)}
    return (lambda: loss(view, signal, rows).sum), logits


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["all", "formulations", "step"], default="all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} thread(s), median of {options.repeats}\n")
    if options.part in ("all", "formulations"):
        formulations(options.device, options.repeats)
    if options.part in ("all", "step"):
        step(options.device, options.repeats, options.batch, options.size)


if __name__ == "__main__":
    main()
