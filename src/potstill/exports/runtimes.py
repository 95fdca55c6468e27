"""One face for every runtime that can serve a model: inputs as numpy arrays in, logits as a numpy array out.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from potstill.answers.units import head_output
from potstill.errors import ModelError
from potstill.exports.onnx import file_bytes, read_metadata


@runtime_checkable
class Runner(Protocol):
    """Something that answers a batch.

    Attributes:
        name: Runtime and precision, ``"onnxruntime-int8"``.
        precision: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``.
        bytes: Size of the served files on disk.
        threads: Threads that one call may use.
    """

    name: str
    precision: str
    bytes: int
    threads: int

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """Logits [B, C] in fp32; inputs that the model does not have are left out."""
        ...


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class TorchRunner:
    """A PyTorch model in eval and inference mode, on the device where it lies.

    Args:
        model: Returns an object with ``logits``, or the logits.
        threads: Threads of one call; None takes PyTorch's present number.
        precision: What the name says; read from the parameters by default.
    """

    def __init__(self, model: Any, *, threads: int | None = None, precision: str | None = None) -> None:
        import torch

        self.model = model
        self.threads = threads or torch.get_num_threads()
        self.precision = precision or _torch_precision(model)
        self.name = f"pytorch-{self.precision}"
        self.bytes = model_bytes(model)
        self._accepted = _forward_names(model)

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """Logits [B, C]."""
        import torch

        device = next(self.model.parameters()).device
        kept = {name: value for name, value in inputs.items() if self._accepted is None or name in self._accepted}
        tensors = {name: torch.as_tensor(value).to(device) for name, value in kept.items()}
        before, was_training = torch.get_num_threads(), self.model.training
        if was_training:
            self.model.eval()
        try:
            if before != self.threads:
                torch.set_num_threads(self.threads)
            with torch.inference_mode():
                output = self.model(**tensors)
            return head_output(output).float().cpu().numpy()
        finally:
            if before != self.threads:
                torch.set_num_threads(before)
            if was_training:
                self.model.train()


class OnnxRunner:
    """An ONNX file in ONNX Runtime.

    Args:
        path: The ``.onnx`` file.
        threads: Threads of one call; None takes all cores.
        precision: What the name says; read from the file by default.
        spinning: Let waiting threads burn their core: lower latency on an idle machine, worse on a busy one.

    Raises:
        ModelError: The file cannot be loaded.
    """

    def __init__(
        self, path: str | Path, *, threads: int | None = None, precision: str | None = None, spinning: bool = False
    ) -> None:
        import onnxruntime

        self.path = Path(path)
        self.threads = threads or num_cores()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(
                f"{self.path} cannot be loaded by ONNX Runtime: {error}", "an ONNX file", "export the model again"
            ) from error
        self.precision = precision or read_metadata(self.path).get("potstill.precision", "fp32")
        self.name = f"onnxruntime-{self.precision}"
        self.bytes = file_bytes(self.path)
        self._types = {entry.name: _NUMPY_TYPES.get(entry.type) for entry in self.session.get_inputs()}
        self._outputs = [self.session.get_outputs()[0].name]

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """Logits [B, C]."""
        feed = {name: as_array(inputs, name, kind) for name, kind in self._types.items()}
        logits = self.session.run(self._outputs, feed)[0]
        return logits if logits.dtype == np.float32 else logits.astype(np.float32)


class OpenVinoRunner:
    """An ONNX file or OpenVINO model (``.xml``) in OpenVINO on the CPU.

    Args:
        path: The ``.onnx`` or ``.xml`` file.
        threads: Threads of one call; None takes all cores.
        precision: What the name says; ``"bf16"`` lets OpenVINO compute in bfloat16, others compute in fp32 around INT8.

    Raises:
        MissingExtra: openvino is not installed.
        ModelError: The file cannot be loaded.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, precision: str = "fp32") -> None:
        openvino = import_openvino()
        self.path = Path(path)
        self.threads = threads or num_cores()
        self.precision = precision
        self.name = f"openvino-{precision}"
        self.bytes = file_bytes(self.path)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        try:
            self.compiled = openvino.Core().compile_model(str(self.path), "CPU", settings)
        except Exception as error:
            raise ModelError(
                f"{self.path} cannot be loaded by OpenVINO: {error}", "an .onnx or .xml file", "export the model again"
            ) from error
        self._request = self.compiled.create_infer_request()
        self._types = {port.get_any_name(): port.get_element_type().to_dtype() for port in self.compiled.inputs}

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """Logits [B, C]."""
        feed = {name: as_array(inputs, name, kind) for name, kind in self._types.items()}
        logits = self._request.infer(feed, share_inputs=True)[0]
        return np.asarray(logits, dtype=np.float32)


def import_openvino() -> Any:
    """The openvino module.

    Raises:
        MissingExtra: It is not installed.
    """
    from potstill.errors import MissingExtra

    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("OpenVINO", "openvino") from error
    return openvino


def model_bytes(model: Any) -> int:
    """Bytes of a PyTorch model's weights as saved: shared tensors counted once."""
    seen: dict[tuple[Any, ...], int] = {}
    for value in model.state_dict().values():
        if hasattr(value, "data_ptr"):
            seen[(value.device, value.data_ptr(), value.numel())] = value.numel() * value.element_size()
    return sum(seen.values())


def as_array(inputs: Mapping[str, Any], name: str, kind: Any) -> np.ndarray:
    """One input as a contiguous array of the type that the runtime wants.

    Raises:
        ModelError: The input is missing.
    """
    if name not in inputs:
        if name == "token_type_ids" and "input_ids" in inputs:
            return np.zeros(np.shape(inputs["input_ids"]), dtype=kind or np.int64)
        raise ModelError(f"the batch lacks {name!r}", f"a batch with {name!r} (it has {', '.join(sorted(inputs))})")
    value = inputs[name]
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if kind is not None and array.dtype != kind:
        array = array.astype(kind)
    return np.ascontiguousarray(array)


_NUMPY_TYPES = {
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bool)": np.dtype(np.bool_),
}


def _torch_precision(model: Any) -> str:
    kind = str(next(model.parameters()).dtype)
    return {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}.get(kind, kind.removeprefix("torch."))


def _forward_names(model: Any) -> frozenset[str] | None:
    """Names that `forward` takes, labels excluded; None where it takes anything."""
    import inspect

    parameters = inspect.signature(model.forward).parameters
    names = {name for name, value in parameters.items() if value.kind in (value.POSITIONAL_OR_KEYWORD, value.KEYWORD_ONLY)}
    takes_anything = any(value.kind is value.VAR_KEYWORD for value in parameters.values())
    if takes_anything and not names & {"input_ids", "pixel_values"}:
        return None
    return frozenset(names - {"labels"})
