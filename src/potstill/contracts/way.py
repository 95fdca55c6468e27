"""A way of making a smaller or faster artefact from an exported one, and the precisions that weights are stored in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Calibration = Sequence[Mapping[str, Any]]
WAYS = {
    "fp32": "potstill.exports.ways.floats:FP32_FILE",
    "fp32-fused": "potstill.exports.ways.floats:FP32_FUSED",
    "fp16": "potstill.exports.ways.floats:FP16_FILE",
    "dynamic": "potstill.exports.ways.dynamic:DYNAMIC",
    "dynamic-plain": "potstill.exports.ways.dynamic:DYNAMIC_PLAIN",
    "dynamic-embeddings": "potstill.exports.ways.dynamic:DYNAMIC_EMBEDDINGS",
    "static-minmax": "potstill.exports.ways.static:MINMAX",
    "static-percentile": "potstill.exports.ways.static:PERCENTILE",
    "static-entropy": "potstill.exports.ways.static:ENTROPY",
    "openvino-fp32": "potstill.exports.ways.openvino:OPENVINO_FP32",
    "openvino-int8": "potstill.exports.ways.openvino:OPENVINO_INT8",
}
"""Way → where it is, in the order tried; the first word of a name is its group."""
AUTO, OFF = "auto", "none"


@dataclass(frozen=True)
class Precision:
    """How weights are stored.

    Args:
        name: ``"int8"``.
    """

    name: str
    bits: int
    is_integer: bool = False

    @property
    def is_reference(self) -> bool:
        """Whether this is what models are exported in, so that nothing is lost by it."""
        return self.bits == 32


FP32, FP16, INT8 = Precision("fp32", 32), Precision("fp16", 16), Precision("int8", 8, is_integer=True)
PRECISIONS = {one.name: one for one in (FP32, FP16, INT8)}


@dataclass(frozen=True)
class Way:
    """One way of serving a model.

    Args:
        name: What the tables call it.
        reads: Format of what it starts from, an export in fp32.
        writes: Format of what it makes.
        precision: Of what it makes.
        file: Name of the file that it makes.
        make: (fp32 file, file to write, calibration batches) → the file to serve. Fails with a `PotstillError` where it cannot.
        packages: What must be installed.
        extra: The extra of Potstill that installs them.
        reached: Share of a file's weights that are stored in the precision; None where that is always nearly all.
    """

    name: str
    reads: str
    writes: str
    precision: Precision
    file: str
    make: Callable[[Path, Path, Calibration], Path]
    packages: tuple[str, ...] = ()
    extra: str = ""
    reached: Callable[[Path], float] | None = None

    @property
    def group(self) -> str:
        """The first word of its name: what a recipe calls it together with its like."""
        return group_of(self.name)

    def is_named(self, mode: str) -> bool:
        """Whether `quantize.mode` asks for this way, or for its group."""
        return mode in (self.name, self.group)

    @property
    def is_installed(self) -> bool:
        """Whether its packages are."""
        return all(find_spec(package) is not None for package in self.packages)


def group_of(name: str) -> str:
    """The group of a way; of one that stores what was exported it is ``"none"``: no quantization.

    Example:
        >>> [group_of(name) for name in ("static-minmax", "fp16", "fp32-fused")]
        ['static', 'fp16', 'none']
    """
    group = name.partition("-")[0]
    return OFF if group == FP32.name else group


def modes() -> tuple[str, ...]:
    """What `quantize.mode` may be: everything, nothing, a precision in integers, a group, or one way by its name."""
    integers = [one.name for one in PRECISIONS.values() if one.is_integer]
    return tuple(dict.fromkeys([AUTO, OFF, *integers, *map(group_of, WAYS), *WAYS]))
