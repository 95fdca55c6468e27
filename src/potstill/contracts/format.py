"""What every file format of exported models can do: write a model, open it as a runner, move with all its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from potstill.contracts.runner import Runner

Axes = Mapping[str, Mapping[int, str]]
FORMATS = {
    "onnx": "potstill.exports.onnx:ONNX",
    "openvino": "potstill.exports.openvino:OPENVINO",
}
"""Format → where it is; the law of formats holds for each."""


@dataclass(frozen=True)
class Artefact:
    """An exported model and how far it is from PyTorch.

    Args:
        path: The main file.
        bytes: Size of all its files.
        max_abs_difference: Largest absolute difference of an output over the shapes that were compared.
    """

    path: Path
    bytes: int
    max_abs_difference: float


class Format(ABC):
    """A file format and the runtime that serves it.

    Attributes:
        name: What tables and facts call it.
        title: What notes call it.
        runtime: What names of its runners begin with.
        suffix: Of the main file.
    """

    name: str
    title: str
    runtime: str
    suffix: str

    @abstractmethod
    def export(
        self, model: nn.Module, path: Path, *, example_inputs: Mapping[str, Tensor], dynamic_axes: Axes, tolerance: float = 1e-4
    ) -> Artefact:
        """Write `model`, whose weights and mode stay as they are, and compare the file with it at other shapes.

        Args:
            model: Returns an object with ``logits``, the logits, or a dict of named outputs.
            path: The main file; it appears whole and checked, or not at all.
            example_inputs: Input name → tensor, at least 2 rows.
            dynamic_axes: Input name → {axis: ``"batch"`` | ``"tokens"``}.
            tolerance: Largest difference of an output, relative to 1 + the largest value of that output.

        Raises:
            ModelError: The model cannot be exported, or the file computes something else.
            OutputError: The file cannot be written.
        """

    @abstractmethod
    def open(self, path: Path, *, threads: int | None = None, precision: str | None = None, device: str = "cpu") -> Runner:
        """Open a file.

        Args:
            path: The main file.
            threads: Threads of one call; None takes all cores.
            precision: What the runner's name says; None reads it from the file where the format stores it, else fp32.
            device: Where it runs, as PyTorch names devices.

        Raises:
            MissingExtra: The runtime is not installed.
            ModelError: The file cannot be loaded, or not on this device.
        """

    @abstractmethod
    def files(self, path: Path) -> tuple[Path, ...]:
        """Every file of an artefact that exists, the main file first."""

    @abstractmethod
    def move(self, path: Path, target: Path) -> Path:
        """Give an artefact another main file, all its files with it; returns `target`."""

    def bytes(self, path: Path) -> int:
        """Size of all files of an artefact."""
        return sum(file.stat().st_size for file in self.files(path))
