"""The hardware that will serve a student: what it runs, and whether it can be measured on this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod

TARGETS = {
    "cpu": "potstill.targets.cpu:CPU",
    "nvidia_gpu": "potstill.targets.nvidia_gpu:NVIDIA_GPU",
}
"""Target → where it is; a recipe's `target` is one of these names."""


class Target(ABC):
    """Hardware that serves.

    Attributes:
        name: What recipes call it.
        title: What reports call it.
        formats: Names of the formats that it runs, the one that models are exported in first.
        ways: Names of the ways that ``quantize: auto`` tries.
        further_ways: Names of ways that are tried where a recipe asks for them.
        device: PyTorch's name of the device.
        is_timed_by_plans: Whether the planner's predicted latencies are those of this hardware.
    """

    name: str
    title: str
    formats: tuple[str, ...]
    ways: tuple[str, ...]
    further_ways: tuple[str, ...] = ()
    device: str = "cpu"
    is_timed_by_plans: bool = False

    @abstractmethod
    def absent(self) -> str:
        """Why it cannot be measured on this machine, with what to do; empty where it can."""

    @abstractmethod
    def thread_counts(self) -> tuple[int, ...]:
        """CPU threads of one call that are worth trying, in rising order; the last one where speed does not matter."""

    @abstractmethod
    def describe(self) -> str:
        """The hardware that is measured, in one line."""

    @property
    def is_here(self) -> bool:
        """Whether speeds can be measured on this machine."""
        return not self.absent()

    @property
    def usable_device(self) -> str:
        """Where files answer rows: the target's device, or the CPU of this machine in its stead."""
        return self.device if self.is_here else "cpu"
