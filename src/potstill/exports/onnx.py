"""ONNX: a model as one file, checked against PyTorch, served by ONNX Runtime."""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from potstill.contracts.format import Artefact, Axes, Format
from potstill.contracts.way import FP32
from potstill.errors import ModelError, OutputError
from potstill.exports.parity import largest_difference
from potstill.exports.runtimes import NamedOutputs, as_array, in_fp32, num_cores, output_names

logger = logging.getLogger(__name__)

OPSET = 17  # the first with LayerNormalization as one node; read by every runtime in use
SINGLE_FILE_LIMIT_BYTES = 2_000_000_000  # protobuf refuses more; weights then have a file of their own
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_NUMPY_TYPES = {
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bool)": np.dtype(np.bool_),
}


class OnnxRunner:
    """An ONNX file in ONNX Runtime.

    Raises:
        ModelError: The file cannot be loaded, or not on this device.
    """

    def __init__(
        self, path: str | Path, *, threads: int | None = None, precision: str | None = None, device: str = "cpu"
    ) -> None:
        self.path = Path(path)
        self.threads = threads or num_cores()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would take the others' cores
        provider = PROVIDERS.get(device, device)
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), options, providers=[provider])
        except Exception as error:
            raise ModelError(
                f"{self.path} cannot be loaded by ONNX Runtime: {error}", "an ONNX file", "export the model again"
            ) from error
        if provider not in self.session.get_providers():  # it falls back to the CPU with a warning
            raise ModelError(f"ONNX Runtime cannot use {device} here", "a device that it has", "pip install onnxruntime-gpu")
        self.precision = precision or read_metadata(self.path).get("potstill.precision", FP32.name)
        self.name = f"{ONNX.runtime}-{self.precision}"
        self.bytes = ONNX.bytes(self.path)
        self._types = {entry.name: _NUMPY_TYPES.get(entry.type) for entry in self.session.get_inputs()}
        self._outputs = [entry.name for entry in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        feed = {name: as_array(inputs, name, kind) for name, kind in self._types.items()}
        return {name: in_fp32(value) for name, value in zip(self._outputs, self.session.run(self._outputs, feed))}


class OnnxFormat(Format):
    """``.onnx``, with its weights in ``.onnx.data`` above 2 GB."""

    name, title, runtime, suffix = "onnx", "ONNX", "onnxruntime", ".onnx"

    def export(
        self, model: nn.Module, path: Path, *, example_inputs: Mapping[str, Tensor], dynamic_axes: Axes, tolerance: float = 1e-4
    ) -> Artefact:
        """A copy in fp32 on the CPU is traced, with attention in its plain form, which runtimes can fuse."""
        path = Path(path)
        examples = {name: value.detach().cpu() for name, value in example_inputs.items()}
        partial = path.with_name(f"{path.name}.partial")
        make_folder(path.parent)
        wrapper = traceable(model, tuple(examples))
        failures = []
        for exporter in (_trace, _export_program):
            try:
                exporter(wrapper, examples, dynamic_axes, partial)
                _finish(partial, model)
                difference = largest_difference(wrapper, self.open(partial, threads=1), examples, dynamic_axes)
            except OSError as error:
                partial.unlink(missing_ok=True)
                raise OutputError(f"{path} could not be written: {error}", todo="free space or choose another folder") from error
            except Exception as error:
                failures.append(f"{exporter.__name__.strip('_')}: {_first_line(error)}")
                logger.info("exporter %s failed: %s", exporter.__name__, error)
                continue
            if difference.relative <= tolerance:
                self.move(partial, path)
                return Artefact(path, self.bytes(path), difference.absolute)
            failures.append(f"{exporter.__name__.strip('_')}: differs by {difference.relative:.2g} at {difference.where}")
        partial.unlink(missing_ok=True)
        raise ModelError(
            f"{type(model).__name__} could not be exported to ONNX ({'; '.join(failures)})",
            f"a model whose exported logits differ from PyTorch by at most {tolerance:g} of the largest logit",
            "keep the PyTorch model, or raise the tolerance where such a difference is harmless",
        )

    def open(self, path: Path, *, threads: int | None = None, precision: str | None = None, device: str = "cpu") -> OnnxRunner:
        """See `OnnxRunner`."""
        return OnnxRunner(path, threads=threads, precision=precision, device=device)

    def files(self, path: Path) -> tuple[Path, ...]:
        """The file, and the weights that did not fit inside."""
        return tuple(file for file in (path, _data_of(path)) if file.exists())

    def move(self, path: Path, target: Path) -> Path:
        """Rename; a file with weights outside names them inside, so it is saved once more."""
        data = _data_of(path)
        if not data.exists():
            os.replace(path, target)
            return target
        exported = onnx.load(str(path))
        _data_of(target).unlink(missing_ok=True)
        onnx.save(exported, str(target), save_as_external_data=True, location=_data_of(target).name)
        path.unlink()
        data.unlink()
        return target


ONNX = OnnxFormat()
export_onnx = ONNX.export


def set_metadata(model: onnx.ModelProto, values: Mapping[str, str]) -> None:
    """Set entries of ``metadata_props``, keeping the others."""
    kept = {entry.key: entry.value for entry in model.metadata_props} | dict(values)
    del model.metadata_props[:]
    for key, value in sorted(kept.items()):
        model.metadata_props.add(key=key, value=value)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Entries of ``metadata_props``: ``potstill.labels`` (JSON list), ``potstill.precision``, ``potstill.model_type`` …"""
    model = onnx.load(str(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def traceable(model: nn.Module, names: Sequence[str]) -> NamedOutputs:
    """A copy in fp32 on the CPU, in eval mode, with plain attention, as a function of positional tensors."""
    traced: Any = copy.deepcopy(model).cpu().float()
    if hasattr(traced, "set_attn_implementation"):
        try:
            traced.set_attn_implementation("eager")
        except ValueError as error:
            logger.debug("attention stays as it is: %s", error)
    if getattr(traced, "config", None) is not None:
        traced.config.return_dict = True
    return NamedOutputs(traced, names).eval()  # eval on the wrapper: the exporter restores its mode on the whole tree


def _trace(wrapper: NamedOutputs, examples: Mapping[str, Tensor], axes: Axes, path: Path) -> None:
    """The tracing exporter: ten times faster than the other and easier for runtimes to fuse."""
    with torch.no_grad():
        ranks = {name: value.dim() for name, value in wrapper.by_name(*examples.values()).items()}
    outputs = {name: {0: "batch"} | ({1: "tokens"} if rank == 3 else {}) for name, rank in ranks.items()}
    dynamic = {name: dict(axes.get(name, {})) for name in examples} | outputs
    _write(wrapper, examples, path, dynamo=False, opset_version=OPSET, dynamic_axes=dynamic)


def _export_program(wrapper: NamedOutputs, examples: Mapping[str, Tensor], axes: Axes, path: Path) -> None:
    """The exporter over ``torch.export``: slower, covers models that cannot be traced."""
    shapes = tuple(dict.fromkeys(axes.get(name, {}), torch.export.Dim.AUTO) for name in examples)
    _write(wrapper, examples, path, dynamo=True, verbose=False, dynamic_shapes=(shapes,))


def _write(wrapper: NamedOutputs, examples: Mapping[str, Tensor], path: Path, **options: Any) -> None:
    names = list(output_names(wrapper.model))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(wrapper, tuple(examples.values()), str(path), input_names=list(examples), output_names=names, **options)


def _data_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _finish(path: Path, model: nn.Module) -> None:
    """One file where it fits, no stale shapes, labels and origin inside."""
    exported = onnx.load(str(path))
    del exported.graph.value_info[:]  # shapes left by an exporter disagree with what quantizers infer
    set_metadata(exported, _describe(model))
    data = _data_of(path)
    if exported.ByteSize() < SINGLE_FILE_LIMIT_BYTES:
        data.unlink(missing_ok=True)
        onnx.save(exported, str(path))
    else:
        onnx.save(exported, str(path), save_as_external_data=True, location=data.name)


def _describe(model: nn.Module) -> dict[str, str]:
    config = getattr(model, "config", None)
    labels = getattr(config, "id2label", None) or {}
    sizes = {name: getattr(config, name, None) for name in ("num_attention_heads", "hidden_size", "head_dim")}
    return {f"potstill.{name}": str(size) for name, size in sizes.items() if isinstance(size, int)} | {
        "potstill.precision": FP32.name,
        "potstill.model_type": str(getattr(config, "model_type", type(model).__name__)),
        "potstill.labels": json.dumps([str(labels[key]) for key in sorted(labels)], ensure_ascii=False),
    }


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {folder} cannot be made: {error}", todo="choose a folder that you may write") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
