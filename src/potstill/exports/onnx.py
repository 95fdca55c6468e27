"""A trained model as one ONNX file, checked against PyTorch before anyone may use it.

Shapes: B batch, T tokens, C classes.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from potstill.answers.units import head_output
from potstill.errors import ModelError, OutputError
from potstill.exports.parity import largest_difference

logger = logging.getLogger(__name__)

Axes = Mapping[str, Mapping[int, str]]

OPSET = 17  # the first with LayerNormalization as one node; read by every runtime in use
SINGLE_FILE_LIMIT_BYTES = 2_000_000_000  # protobuf refuses more; weights then lie beside the file


@dataclass(frozen=True)
class OnnxExport:
    """An exported file and how far it is from PyTorch.

    Args:
        path: The ``.onnx`` file.
        bytes: Size of the file and of the weights beside it, where they did not fit inside.
        max_abs_difference: Largest absolute difference of a logit over the shapes that were compared.
    """

    path: Path
    bytes: int
    max_abs_difference: float


class LogitsOnly(nn.Module):
    """A model seen as a function of positional tensors that returns logits and nothing else; see `answers.units.head_output`."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *values: Tensor) -> Tensor:
        """Logits of one batch."""
        return head_output(self.model(**dict(zip(self.names, values))))


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    example_inputs: Mapping[str, Tensor],
    dynamic_axes: Axes,
    tolerance: float = 1e-4,
) -> OnnxExport:
    """Write `model` as ONNX and compare the file with PyTorch at shapes other than the example's.

    The model itself is left alone: a copy in fp32 on the CPU is traced. Attention is exported in its plain
    form, which gives smaller graphs that runtimes can fuse.

    Args:
        model: Returns an object with ``logits`` [B, C], or the logits.
        path: The file to write; written beside and renamed when whole and checked.
        example_inputs: Input name → tensor, at least 2 rows so that no axis is taken for a constant.
        dynamic_axes: Input name → {axis: ``"batch"`` | ``"tokens"``}.
        tolerance: Largest difference of a logit, relative to 1 + the largest logit.

    Raises:
        ModelError: The model cannot be exported, or the file computes something else.
        OutputError: The file cannot be written.
    """
    path = Path(path)
    examples = {name: value.detach().cpu() for name, value in example_inputs.items()}
    partial = path.with_name(f"{path.name}.partial")
    _make_folder(path.parent)
    wrapper = _traceable(model, tuple(examples))
    difference, failures = None, []
    for exporter in (_trace, _export_program):
        try:
            exporter(wrapper, examples, dynamic_axes, partial)
            _finish(partial, model, precision="fp32")
            difference = largest_difference(wrapper, partial, examples, dynamic_axes, _pad_id(model), _max_tokens(model))
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OutputError(f"{path} could not be written: {error}", todo="free space or choose another folder") from error
        except Exception as error:
            failures.append(f"{exporter.__name__.strip('_')}: {_first_line(error)}")
            logger.info("exporter %s failed: %s", exporter.__name__, error)
            continue
        if difference.relative <= tolerance:
            _move_into_place(partial, path)
            return OnnxExport(path, file_bytes(path), difference.absolute)
        failures.append(f"{exporter.__name__.strip('_')}: differs by {difference.relative:.2g} at {difference.where}")
    partial.unlink(missing_ok=True)
    raise ModelError(
        f"{type(model).__name__} could not be exported to ONNX ({'; '.join(failures)})",
        f"a model whose exported logits differ from PyTorch by at most {tolerance:g} of the largest logit",
        "keep the PyTorch model, or raise the tolerance where such a difference is harmless",
    )


def file_bytes(path: str | Path) -> int:
    """Bytes of a model on disk, counting the weights that lie beside it (``.onnx.data``, or ``.bin`` of an ``.xml``)."""
    path = Path(path)
    beside = path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")
    return sum(part.stat().st_size for part in (path, beside) if part.exists())


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


def _traceable(model: nn.Module, names: Sequence[str]) -> LogitsOnly:
    traced: Any = copy.deepcopy(model).cpu().float()
    if hasattr(traced, "set_attn_implementation"):
        try:
            traced.set_attn_implementation("eager")
        except ValueError as error:
            logger.debug("attention stays as it is: %s", error)
    if getattr(traced, "config", None) is not None:
        traced.config.return_dict = True
    return LogitsOnly(traced, names).eval()  # eval on the wrapper: the exporter restores its mode on the whole tree


def _trace(wrapper: LogitsOnly, examples: Mapping[str, Tensor], axes: Axes, path: Path) -> None:
    """The tracing exporter: ten times faster than the other and easier for runtimes to fuse."""
    with torch.no_grad():
        has_tokens = wrapper(*examples.values()).dim() == 3
    outputs = {"logits": {0: "batch"} | ({1: "tokens"} if has_tokens else {})}
    dynamic = {name: dict(axes.get(name, {})) for name in examples} | outputs
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapper,
            tuple(examples.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=["logits"],
            dynamic_axes=dynamic,
        )


def _export_program(
    wrapper: LogitsOnly, examples: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]], path: Path
) -> None:
    """The exporter over ``torch.export``: slower, covers models that cannot be traced."""
    shapes = tuple(dict.fromkeys(axes.get(name, {}), torch.export.Dim.AUTO) for name in examples)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapper,
            tuple(examples.values()),
            str(path),
            dynamo=True,
            verbose=False,
            input_names=list(examples),
            output_names=["logits"],
            dynamic_shapes=(shapes,),
        )


def _finish(path: Path, model: nn.Module, *, precision: str) -> None:
    """One file where it fits, no stale shapes, labels and origin inside."""
    exported = onnx.load(str(path))
    del exported.graph.value_info[:]  # shapes left by an exporter disagree with what quantizers infer
    set_metadata(exported, _describe(model, precision))
    data = path.with_name(f"{path.name}.data")
    if exported.ByteSize() < SINGLE_FILE_LIMIT_BYTES:
        data.unlink(missing_ok=True)
        onnx.save(exported, str(path))
    else:
        onnx.save(exported, str(path), save_as_external_data=True, location=data.name)


def _describe(model: nn.Module, precision: str) -> dict[str, str]:
    config = getattr(model, "config", None)
    labels = getattr(config, "id2label", None) or {}
    sizes = {name: getattr(config, name, None) for name in ("num_attention_heads", "hidden_size", "head_dim")}
    return {f"potstill.{name}": str(size) for name, size in sizes.items() if isinstance(size, int)} | {
        "potstill.precision": precision,
        "potstill.model_type": str(getattr(config, "model_type", type(model).__name__)),
        "potstill.labels": json.dumps([str(labels[key]) for key in sorted(labels)], ensure_ascii=False),
    }


def _move_into_place(partial: Path, path: Path) -> None:
    data = partial.with_name(f"{partial.name}.data")
    if data.exists():  # the file names the data inside, so it is saved once more under its last name
        exported = onnx.load(str(partial))
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        onnx.save(exported, str(path), save_as_external_data=True, location=f"{path.name}.data")
        partial.unlink()
        data.unlink()
    else:
        os.replace(partial, path)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {folder} cannot be made: {error}", todo="choose a folder that you may write") from error


def _pad_id(model: nn.Module) -> int:
    return int(getattr(getattr(model, "config", None), "pad_token_id", None) or 0)


def _max_tokens(model: nn.Module) -> int | None:
    config: Any = getattr(model, "config", None)
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else max(1, int(positions) - _pad_id(model) - 1)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
