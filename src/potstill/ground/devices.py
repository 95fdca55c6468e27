"""Devices: passes over many rows on this process's GPU, what a CPU will serve or what is timed for it on the CPU."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

LOOKED_UP = frozenset({"row_id", "task_classes"})
"""What of a batch is looked up and not computed with: it stays on the CPU, so that looking it up does not wait for the GPU."""
_YES = frozenset({"1", "true", "yes", "on", "y", "t"})


def compute_device() -> torch.device:
    """Where passes over many rows run: this process's GPU where PyTorch sees one, else the CPU.

    ``ACCELERATE_USE_CPU=1`` keeps them, and training, on the CPU.
    """
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in _YES or not torch.cuda.is_available():
        return torch.device("cpu")
    rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", torch.cuda.current_device() if rank is None else int(rank))


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; every module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def exact(device: torch.device | str) -> torch.device:
    """The device with its number, as tensors have it: ``"cuda"`` is the GPU in use."""
    found = torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if found.type == "cuda" and found.index is None else found


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first weight lies; the CPU for a model without weights."""
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")


def device_of_batch(batch: Mapping[str, Any]) -> torch.device:
    """Where a batch is computed with: the device of its first tensor that is not only looked up; the CPU where there is none."""
    for name, value in batch.items():
        if isinstance(value, Tensor) and name not in LOOKED_UP:
            return value.device
    return torch.device("cpu")


@contextlib.contextmanager
def placed(model: nn.Module, device: torch.device | str | None = None) -> Iterator[nn.Module]:
    """The model on `device` while the block runs, and where it was afterwards."""
    home, wanted = device_of(model), compute_device() if device is None else exact(device)
    if home == wanted:
        yield model
        return
    model.to(wanted)
    try:
        yield model
    finally:
        model.to(home)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws inside follow from `seed`; the random states of the CPU and of all GPUs in use are as before afterwards."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(gpus)):
        torch.manual_seed(seed)
        yield


def release_memory() -> None:
    """Give back GPU memory of what is no longer used; nothing to do where no GPU is in use."""
    if torch.cuda.is_initialized():
        gc.collect()  # trainers are cycles of references, which hold optimizer states until they are looked for
        torch.cuda.empty_cache()
