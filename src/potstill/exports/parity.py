"""The largest difference between an exported file and PyTorch, at shapes that it was not traced with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.contracts.format import Axes
from potstill.contracts.runner import Runner
from potstill.exports.runtimes import NamedOutputs
from potstill.ground.counted import counted


@dataclass(frozen=True)
class Difference:
    """The largest difference found.

    Args:
        relative: The same over 1 + the largest absolute value of that output in that batch.
        where: The batch at which the relative difference is largest, in words.
    """

    absolute: float
    relative: float
    where: str


def largest_difference(
    model: NamedOutputs,
    runner: Runner,
    examples: Mapping[str, Tensor],
    dynamic_axes: Axes,
) -> Difference:
    """Compare file and model on batches of several sizes and lengths, with and without padding.

    Args:
        examples: Example inputs by name; rows and tokens are repeated or dropped to make other shapes.
    """
    absolute, relative, worst = 0.0, 0.0, "no shape"
    for where, inputs in other_shapes(examples, dynamic_axes, _pad_id(model.model), _max_tokens(model.model)):
        with torch.inference_mode():
            outputs = {name: value.numpy() for name, value in model.by_name(*inputs.values()).items()}
        answers = runner.run({name: value.numpy() for name, value in inputs.items()})
        for name, expected in outputs.items():
            got = answers[name]
            if got.shape != expected.shape or not np.isfinite(got).all():
                return Difference(float("inf"), float("inf"), where)
            gap = float(np.abs(got - expected).max())
            absolute = max(absolute, gap)
            share = gap / (1.0 + float(np.abs(expected).max()))
            if share >= relative:
                relative, worst = share, where
    return Difference(absolute, relative, worst)


def other_shapes(
    examples: Mapping[str, Tensor],
    dynamic_axes: Axes,
    pad_id: int = 0,
    max_tokens: int | None = None,
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Batches unlike the example: one row, more rows, fewer and more tokens, rows padded at the end."""
    has_tokens = any("tokens" in axes.values() for axes in dynamic_axes.values())
    has_batch = any("batch" in axes.values() for axes in dynamic_axes.values())
    length = next((v.shape[1] for n, v in examples.items() if dynamic_axes.get(n, {}).get(1) == "tokens"), 1)
    longest = 2 * length + 1 if max_tokens is None else min(2 * length + 1, max_tokens)
    rows = (1, 3) if has_batch else (next(iter(examples.values())).shape[0],)
    for num_rows in rows:
        for tokens in sorted({min(2, longest), longest}) if has_tokens else (None,):
            inputs = {name: _resize(value, dynamic_axes.get(name, {}), num_rows, tokens) for name, value in examples.items()}
            name = counted(num_rows, "row") + ("" if tokens is None else f" of {counted(tokens, 'token')}")
            yield name, inputs
            if tokens is not None and tokens > 1 and "attention_mask" in inputs:
                yield f"{name}, padded", _padded(inputs, pad_id)


def _resize(value: Tensor, axes: Mapping[int, str], num_rows: int, tokens: int | None) -> Tensor:
    wanted = {"batch": num_rows, "tokens": tokens}
    for axis, name in axes.items():
        size = wanted.get(name)
        if size is not None:
            index = torch.arange(size) % value.shape[axis]
            value = value.index_select(axis, index)
    return value.contiguous()


def _padded(inputs: Mapping[str, Tensor], pad_id: int) -> dict[str, Tensor]:
    """The same rows, each cut to another length and padded at the end."""
    mask = inputs["attention_mask"].clone()
    num_rows, tokens = mask.shape
    for row in range(num_rows):
        mask[row, max(1, tokens - 1 - row) :] = 0
    padded = dict(inputs, attention_mask=mask)
    if "input_ids" in padded:
        padded["input_ids"] = padded["input_ids"].masked_fill(mask == 0, pad_id)
    return padded


def _pad_id(model: nn.Module) -> int:
    return int(getattr(getattr(model, "config", None), "pad_token_id", None) or 0)


def _max_tokens(model: nn.Module) -> int | None:
    config: Any = getattr(model, "config", None)
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else max(1, int(positions) - _pad_id(model) - 1)
