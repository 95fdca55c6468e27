"""What `choose` may try: every way of serving an exported file that is worth measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from potstill.errors import RecipeError
from potstill.exports.runtimes import OnnxRunner, OpenVinoRunner, Runner
from potstill.exports.ways.dynamic import quantize_dynamic
from potstill.exports.ways.fp16 import convert_fp16
from potstill.exports.ways.fuse import fuse
from potstill.exports.ways.openvino_int8 import quantize_openvino, save_openvino
from potstill.exports.ways.static import quantize_static
from potstill.ground.tables import nearest

Calibration = Sequence[Mapping[str, Any]]
Build = Callable[[Path, Path, Calibration], Path]

MODES = ("auto", "int8", "none", "dynamic", "static", "fp16", "openvino")


@dataclass(frozen=True)
class Way:
    """One way of serving a model.

    Args:
        name: What the tables call it.
        runtime: ``"onnxruntime"`` or ``"openvino"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        file: Name of the file that it makes.
        build: (fp32 ONNX file, file to write, calibration batches) → file.
    """

    name: str
    runtime: str
    precision: str
    file: str
    build: Build


def _plain(source: Path, target: Path, calibration: Calibration) -> Path:
    return source


def _fused(source: Path, target: Path, calibration: Calibration) -> Path:
    return fuse(source, target, fuse_embeddings=True)


def _half(source: Path, target: Path, calibration: Calibration) -> Path:
    return convert_fp16(source, target)


def _dynamic(**options: bool) -> Build:
    return lambda source, target, calibration: quantize_dynamic(source, target, **options)


def _static(method: str) -> Build:
    return lambda source, target, calibration: quantize_static(source, target, calibration, method=method)


def _openvino(source: Path, target: Path, calibration: Calibration) -> Path:
    return save_openvino(source, target)


WAYS = (
    Way("fp32", "onnxruntime", "fp32", "model.onnx", _plain),
    Way("fp32-fused", "onnxruntime", "fp32", "model.fused.onnx", _fused),
    Way("fp16", "onnxruntime", "fp16", "model.fp16.onnx", _half),
    Way("dynamic", "onnxruntime", "int8", "model.int8.dynamic.onnx", _dynamic()),
    Way("dynamic-plain", "onnxruntime", "int8", "model.int8.plain.onnx", _dynamic(fused=False)),
    Way("dynamic-embeddings", "onnxruntime", "int8", "model.int8.embeddings.onnx", _dynamic(fuse_embeddings=True)),
    Way("static-minmax", "onnxruntime", "int8", "model.int8.minmax.onnx", _static("minmax")),
    Way("static-percentile", "onnxruntime", "int8", "model.int8.percentile.onnx", _static("percentile")),
    Way("static-entropy", "onnxruntime", "int8", "model.int8.entropy.onnx", _static("entropy")),
    Way("openvino-fp32", "openvino", "fp32", "model.openvino.xml", _openvino),
    Way("openvino-int8", "openvino", "int8", "model.int8.openvino.xml", quantize_openvino),
)

_MODE_WAYS = {
    "none": ("fp32", "fp32-fused"),
    "dynamic": ("dynamic", "dynamic-plain", "dynamic-embeddings"),
    "static": ("static-minmax", "static-percentile", "static-entropy"),
    "fp16": ("fp16",),
    "openvino": ("openvino-int8", "openvino-fp32"),
    "int8": tuple(way.name for way in WAYS if way.precision == "int8"),
    "auto": tuple(way.name for way in WAYS if way.name != "fp16"),
}


def ways_of(mode: str) -> tuple[Way, ...]:
    """The ways that a mode of the recipe tries; OpenVINO's only where it is installed, unless it is asked for.

    Raises:
        RecipeError: No such mode.
    """
    if mode not in _MODE_WAYS:
        guess = nearest(mode, MODES)
        raise RecipeError(f"quantization {mode!r} does not exist", ", ".join(MODES), f"did you mean {guess!r}?" if guess else "")
    has_openvino = find_spec("openvino") is not None
    names = _MODE_WAYS[mode]
    return tuple(way for way in WAYS if way.name in names and (has_openvino or way.runtime != "openvino" or mode == "openvino"))


def open_runner(runtime: str, path: str | Path, *, precision: str, threads: int) -> Runner:
    """The runner that serves a file.

    Args:
        runtime: ``"onnxruntime"`` or ``"openvino"``.
        path: The file.
        precision: What the runner's name says.
        threads: Threads of one call.
    """
    if runtime == "openvino":
        return OpenVinoRunner(path, threads=threads, precision=precision)
    return OnnxRunner(path, threads=threads, precision=precision)
