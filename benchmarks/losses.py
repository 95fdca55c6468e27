"""Time and memory of the losses, against the formulations that public code uses, and per training step against kl.

    python benchmarks/losses.py                    # both tables
    python benchmarks/losses.py --part formulations
    python benchmarks/losses.py --part step --size 64 --batch 128 --device cuda

The plain formulations are in loss_contests.py. Both sides run on the same inputs, in turns; a time is the median, of CPU
time on a CPU (run with OMP_NUM_THREADS=1) and of wall time on a GPU. Memory is the peak of tensors held beyond the inputs.
The second table has the step of the student alone, and with the forward pass of a ResNet-34 teacher, as a run without
cached answers has it.
"""

from __future__ import annotations

import argparse
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from loss_contests import CONTESTS, Contest
from potstill import losses
from potstill.errors import NeedsError
from potstill.losses.contract import Shapes, StudentView
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
    heads = ("plain ms", "ours ms", "speed", "plain MB", "ours MB", "memory", "rel diff")
    print(f"{'loss':<22} {'shapes':<34} {'passes':<9}" + "".join(f"{head:>10}" for head in heads))
    for make in CONTESTS:
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
        f"{contest.name:<22} {contest.shapes:<34} {'both' if with_gradient else 'forward':<9}"
        f"{plain:>10.2f}{ours:>10.2f}{plain / ours:>9.1f}x{memory[0]:>10.1f}{memory[1]:>10.2f}"
        f"{memory[0] / memory[1]:>9.0f}x{abs(values[0] - values[1]) / max(abs(values[0]), 1e-12):>10.1e}",
        flush=True,
    )


def step(device: str, repeats: int, batch: int, size: int) -> None:
    """The second table: a ResNet-18 student step with each loss, over the same step with kl."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    options = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "embedding_size": 64, "num_labels": 100}
    models = [ResNetForImageClassification(ResNetConfig(depths=depths, **options)) for depths in ([2, 2, 2, 2], [3, 4, 6, 3])]
    model, teacher = models[0].to(device).train(), models[1].to(device).eval()
    pixels = torch.randn(batch, 3, size, size, device=device)
    output = model(pixels, output_hidden_states=True)
    stages = [tuple(value.shape) for value in output.hidden_states[1:]]
    bare = statistics.median(seconds(lambda: model(pixels).logits.square().mean(), pixels) for _ in range(3))
    with torch.no_grad():
        ahead = statistics.median(seconds(lambda: teacher(pixels).logits.mean(), pixels, with_gradient=False) for _ in range(3))
    grids = [list(shape[1:]) for shape in stages]
    print(f"\nResNet-18, batch {batch}, {size} × {size}, stages {grids}: bare step {1e3 * bare:.0f} ms")
    print(f"ResNet-34 teacher of the same widths, forward: {1e3 * ahead:.0f} ms; losses over tokens are left out\n")
    costs: dict[str, float] = {}
    for name in losses.names():
        made = prepared(name, stages, batch, device)
        if made is None:
            continue
        function, leaf = made
        if not function().requires_grad:  # it found nothing to learn in random rows
            continue
        costs[name] = statistics.median(seconds(function, leaf) for _ in range(repeats))
    print("| loss | ms | step over the step with kl | with the teacher's forward |\n|---|---|---|---|")
    for name, cost in sorted(costs.items(), key=lambda item: item[1]):
        alone, taught = ((whole + cost) / (whole + costs["kl"]) for whole in (bare, bare + ahead))
        print(f"| `{name}` | {1e3 * cost:.1f} | {alone:.2f} | {taught:.2f} |")


def prepared(name: str, stages: list[tuple[int, ...]], batch: int, device: str) -> tuple[Callable[[], Tensor], Tensor] | None:
    """A forward of the loss on random values of these shapes; None where they are not what it needs."""
    loss = losses.build(name)
    if any(need.split(":")[0] in ("attention", "query", "value", "embedding") for need in loss.needs_student()) or name == "pkd":
        return None
    shapes = {f"hidden:-{len(stages) - index}": shape for index, shape in enumerate(stages)}
    shapes["head.in"] = (batch, stages[-1][1])
    loss.to(device)
    told = Shapes(shapes, (batch, 100))
    try:
        loss.prepare(told, told, num_rows=50_000)
    except NeedsError:
        return None
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
