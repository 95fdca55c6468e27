"""OpenVINO: a model as ``.xml`` with its weights in ``.bin``, converted from a checked ONNX file, served on the CPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from potstill.contracts.format import Artefact, Axes, Format
from potstill.contracts.way import FP32
from potstill.errors import MissingExtra, ModelError
from potstill.exports.onnx import ONNX, make_folder, traceable
from potstill.exports.parity import largest_difference
from potstill.exports.runtimes import as_array, in_fp32, num_cores


class OpenVinoRunner:
    """An ONNX file or OpenVINO model (``.xml``) in OpenVINO on the CPU.

    Args:
        precision: What the name says. A hint keeps OpenVINO from computing in bfloat16 by itself.

    Raises:
        MissingExtra: openvino is not installed.
        ModelError: The file cannot be loaded.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, precision: str | None = None) -> None:
        openvino = import_openvino()
        self.path = Path(path)
        self.threads = threads or num_cores()
        self.precision = precision or FP32.name
        self.name = f"{OPENVINO.runtime}-{self.precision}"
        self.bytes = OPENVINO.bytes(self.path)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            self.compiled = openvino.Core().compile_model(str(self.path), "CPU", settings)
        except Exception as error:
            raise ModelError(
                f"{self.path} cannot be loaded by OpenVINO: {error}", "an .onnx or .xml file", "export the model again"
            ) from error
        self._request = self.compiled.create_infer_request()
        self._types = {port.get_any_name(): port.get_element_type().to_dtype() for port in self.compiled.inputs}
        self._outputs = [port.get_any_name() for port in self.compiled.outputs]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        feed = {name: as_array(inputs, name, kind) for name, kind in self._types.items()}
        found = self._request.infer(feed, share_inputs=True)
        return {name: in_fp32(np.asarray(found[index])) for index, name in enumerate(self._outputs)}


class OpenVinoFormat(Format):
    """``.xml`` and the ``.bin`` of the same stem."""

    name, title, runtime, suffix = "openvino", "OpenVINO", "openvino", ".xml"

    def export(
        self, model: nn.Module, path: Path, *, example_inputs: Mapping[str, Tensor], dynamic_axes: Axes, tolerance: float = 1e-4
    ) -> Artefact:
        """Through ONNX, weights in fp32."""
        openvino = import_openvino()
        make_folder(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
            source, partial = Path(folder) / "model.onnx", Path(folder) / path.name
            ONNX.export(model, source, example_inputs=example_inputs, dynamic_axes=dynamic_axes, tolerance=tolerance)
            openvino.save_model(openvino.Core().read_model(str(source)), str(partial), compress_to_fp16=False)
            examples = {name: value.detach().cpu() for name, value in example_inputs.items()}
            runner = self.open(partial, threads=1)
            found = largest_difference(traceable(model, tuple(examples)), runner, examples, dynamic_axes)
            if found.relative > tolerance:
                raise ModelError(
                    f"{type(model).__name__} in OpenVINO differs by {found.relative:.2g} at {found.where}",
                    f"a difference of at most {tolerance:g} of the largest output",
                    "serve the ONNX file, or raise the tolerance where such a difference is harmless",
                )
            del runner  # it may hold the file open
            self.move(partial, path)
        return Artefact(path, self.bytes(path), found.absolute)

    def open(
        self, path: Path, *, threads: int | None = None, precision: str | None = None, device: str = "cpu"
    ) -> OpenVinoRunner:
        """See `OpenVinoRunner`; it serves from the CPU alone."""
        if device != "cpu":
            raise ModelError(f"OpenVINO cannot use {device}", "cpu", "serve the ONNX file there")
        return OpenVinoRunner(path, threads=threads, precision=precision)

    def files(self, path: Path) -> tuple[Path, ...]:
        """Both files; an ONNX file that OpenVINO serves is one."""
        return tuple(file for file in dict.fromkeys((path, path.with_suffix(".bin"))) if file.exists())

    def move(self, path: Path, target: Path) -> Path:
        """Rename both, the weights first."""
        for file in reversed(self.files(path)):
            os.replace(file, target.with_suffix(file.suffix))
        return target


OPENVINO = OpenVinoFormat()


def import_openvino() -> Any:
    """The openvino module.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("OpenVINO", "openvino") from error
    return openvino
