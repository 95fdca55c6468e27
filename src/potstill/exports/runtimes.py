"""A PyTorch model as a runner, and what all runtimes share: named outputs, inputs as arrays, cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.answers.units import head_output
from potstill.contracts.runner import LOGITS
from potstill.errors import ModelError
from potstill.ground.devices import device_of
from potstill.models.inputs import MAIN_INPUTS, InputNames


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def output_names(model: nn.Module) -> tuple[str, ...]:
    """Names of a model's outputs: its attribute ``output_names``, or the logits alone."""
    return tuple(getattr(model, "output_names", (LOGITS,)))


def named_outputs(model: nn.Module, output: Any) -> dict[str, Tensor]:
    """What a forward of `model` returned, by name.

    Args:
        output: What it returned; ``"logits"`` is read as `head_output` does, other outputs are looked up by name.
    """
    return {name: head_output(output) if name == LOGITS else output[name] for name in output_names(model)}


class NamedOutputs(nn.Module):
    """A model as a function of positional tensors that returns the tensors of `named_outputs` in order; what exporters trace."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Outputs of one batch."""
        return tuple(self.by_name(*values).values())

    def by_name(self, *values: Tensor) -> dict[str, Tensor]:
        """The same with their names."""
        return named_outputs(self.model, self.model(**dict(zip(self.names, values))))


class TorchRunner:
    """A PyTorch model in eval and inference mode, on the device where it lies.

    Args:
        threads: Threads of one call; None takes PyTorch's present number.
    """

    def __init__(self, model: Any, *, threads: int | None = None, precision: str | None = None) -> None:
        self.model = model
        self.threads = threads or torch.get_num_threads()
        self.precision = precision or _torch_precision(model)
        self.name = f"pytorch-{self.precision}"
        self.bytes = model_bytes(model)
        self._accepted = _forward_names(model)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        device = device_of(self.model)
        kept = {name: value for name, value in inputs.items() if self._accepted is None or name in self._accepted}
        tensors = {name: torch.as_tensor(value).to(device) for name, value in kept.items()}
        before, was_training = torch.get_num_threads(), self.model.training
        if was_training:
            self.model.eval()
        try:
            if before != self.threads:
                torch.set_num_threads(self.threads)
            with torch.inference_mode():
                outputs = named_outputs(self.model, self.model(**tensors))
            return {name: in_fp32(value.cpu()) for name, value in outputs.items()}
        finally:
            if before != self.threads:
                torch.set_num_threads(before)
            if was_training:
                self.model.train()


def in_fp32(output: Tensor | np.ndarray) -> np.ndarray:
    """An output as an array, floating point numbers in fp32."""
    value = output if isinstance(output, np.ndarray) else (output.float() if output.is_floating_point() else output).numpy()
    return value.astype(np.float32, copy=False) if np.issubdtype(value.dtype, np.floating) else value


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


def _torch_precision(model: Any) -> str:
    kind = str(next(model.parameters()).dtype)
    return {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}.get(kind, kind.removeprefix("torch."))


def _forward_names(model: Any) -> frozenset[str] | None:
    """Names that `forward` takes, labels excluded; None where it takes anything."""
    found = InputNames(model)
    takes_anything = found.takes_any and not set(MAIN_INPUTS) & set(found.names)
    return None if takes_anything else frozenset(found.names) - {"labels"}
