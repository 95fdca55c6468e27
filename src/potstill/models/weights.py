"""Weights in the form that Potstill computes with: float32, whatever a model in memory was loaded in."""

from __future__ import annotations

import copy
import logging
from typing import TypeVar

import torch
from torch import nn

from potstill.models.quantized import method_of

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


def other_type(model: nn.Module) -> str | None:
    """The type of the first weight or buffer of numbers that is no float32; None where all are.

    Example:
        >>> other_type(nn.Linear(2, 2)), other_type(nn.Linear(2, 2).bfloat16())
        (None, 'bfloat16')
    """
    values = (value for values in (model.parameters(), model.buffers()) for value in values)
    other = next((value.dtype for value in values if value.is_floating_point() and value.dtype != torch.float32), None)
    return None if other is None else str(other).removeprefix("torch.")


def quantization_of(model: nn.Module) -> str | None:
    """How a model's weights are quantized, so that they cannot be read as they are; None where they are not.

    Example:
        >>> quantization_of(nn.Linear(2, 2)) is None
        True
    """
    method = method_of(getattr(model, "config", None))
    if method is not None:
        return method
    packed = next((weight.dtype for weight in model.parameters() if not weight.is_floating_point()), None)
    if packed is not None:
        return str(packed).removeprefix("torch.")
    return next((type(part).__name__ for part in model.modules() if ".nn.quantized" in type(part).__module__), None)


def in_float32(model: Model) -> Model:
    """The model itself where its weights are float32 or quantized, else a copy of it in float32; the model stays as it is."""
    other = other_type(model)
    if other is None or quantization_of(model) is not None:
        return model
    logger.info("%s has weights in %s; a copy in float32 is used", type(model).__name__, other)
    return to_float32(copy.deepcopy(model))


def to_float32(model: Model) -> Model:
    """Bring a model to float32, in place."""
    model.float()
    if hasattr(model, "config"):
        model.config.dtype = torch.float32
    return model
