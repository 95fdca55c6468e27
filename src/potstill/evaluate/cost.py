"""What a model costs whatever the machine: arithmetic, parameters, bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from potstill.exports.runtimes import model_bytes
from potstill.ground.devices import device_of, frozen
from potstill.models.size import parameters_of


@dataclass(frozen=True)
class Cost:
    """Cost of one model.

    Args:
        flops: Floating point operations of one row, a multiplication and an addition counting as two.
    """

    flops: int
    parameters: int
    bytes: int


def cost(model: nn.Module, inputs: Mapping[str, Tensor]) -> Cost:
    """Cost of `model` for rows like `inputs`."""
    return Cost(flops(model, inputs), parameters_of(model), model_bytes(model))


def flops(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Floating point operations per row of `inputs`, counted by running it once.

    Attention is computed in its plain form while counting, because PyTorch counts fused CPU attention as nothing.
    Element-wise work is not counted, as is usual.

    Args:
        model: Called with `inputs` by name; its mode and attention are as before afterwards.
    """
    from torch.utils.flop_counter import FlopCounterMode

    inputs = {name: value.to(device_of(model)) for name, value in inputs.items()}
    num_rows = next(iter(inputs.values())).shape[0]
    counter = FlopCounterMode(display=False)
    with _plain_attention(model), frozen(model), counter:
        model(**inputs)
    return int(counter.get_total_flops() // num_rows)


@contextlib.contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    """Eager attention while the block runs."""
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    can_switch = hasattr(model, "set_attn_implementation") and before not in (None, "eager")
    if can_switch:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if can_switch:
            model.set_attn_implementation(before)
