"""Steps of training as CUDA graphs: recorded once, then replayed on what lies at the same addresses.

Nets of a few layers spend an eager step on launching kernels. A recording holds forward, loss and backward; batches and the
teacher's answers are copied to where it reads them, and the optimizer moves outside it, so that learning rates may change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.knowledge.responses.dense import DenseLogits

EAGER_STEPS = 4  # with the same settings before they are recorded: lazy parts are built, convolutions chosen


class Desk:
    """Keeps batches and the teacher's answers at addresses that do not change."""

    def __init__(self) -> None:
        self._values: dict[str, Tensor] = {}

    def batch(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch, copied."""
        return {name: self._put(f"batch {name}", value) for name, value in batch.items()}

    def signal(self, signal: TeacherSignal | None) -> TeacherSignal | None:
        """Dense logits and taps, copied."""
        if signal is None:
            return None
        response = None if signal.response is None else DenseLogits(self._put("logits", signal.logits))
        return TeacherSignal(response, {name: self._put(f"tap {name}", value) for name, value in signal.taps.items()})

    def _put(self, name: str, value: Tensor) -> Tensor:
        held = self._values.setdefault(name, torch.empty_like(value))
        if held.shape != value.shape or held.dtype != value.dtype:
            raise ValueError(f"{name} was {held.dtype} {tuple(held.shape)} and is {value.dtype} {tuple(value.shape)} now")
        return held.copy_(value)


class Lane:
    """A stream whose recordings share their memory, since they are replayed one after the other."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Work that begins once the current stream has done what it was given."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield

    def join(self) -> None:
        """The current stream goes on once this lane is done."""
        torch.cuda.current_stream().wait_stream(self.stream)


class Recorder:
    """Runs a computation eagerly until its settings have stayed the same for some steps, then records and replays it.

    Args:
        lane: Where it runs; `run` is called within its turn.
        clear: Drops the gradients, so that a recording writes them anew instead of adding to them.
    """

    def __init__(self, lane: Lane, clear: Callable[[], None]) -> None:
        self.lane, self.clear = lane, clear
        self._settings: Hashable = None
        self._times = 0
        self._graph: Any = None

    def run(self, settings: Hashable, compute: Callable[[], None]) -> None:
        """Compute gradients.

        Args:
            settings: All that a recording fixes: weights and temperatures.
            compute: Forward, loss and backward on values at fixed addresses; it reads nothing of the device.
        """
        if settings != self._settings:
            self._settings, self._times, self._graph = settings, 0, None
        if self._graph is not None:
            self._graph.replay()
            return
        self.clear()
        self._times += 1
        if self._times <= EAGER_STEPS:
            compute()
            return
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.lane.pool, stream=self.lane.stream, capture_error_mode="thread_local"):
            compute()
        graph.replay()
        self._graph = graph
