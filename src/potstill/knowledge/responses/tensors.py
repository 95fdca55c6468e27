"""A response that is a record of tensors [B, …] and numbers: how it is packed and moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from potstill.contracts.response import Response
from potstill.errors import NeedsError, RecipeError


@dataclass(frozen=True)
class TensorResponse(Response):
    """Base of responses that are dataclasses of tensors and numbers; whole numbers are packed in 32 bits."""

    def _fields(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def pack(self) -> dict[str, np.ndarray]:
        """One array for each field."""
        return {name: _packed(value) for name, value in self._fields().items()}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The arrays of the fields, whole numbers as int64."""
        return cls(**{item.name: _unpacked(arrays[item.name]) for item in fields(cls)})

    def to(self, device: torch.device) -> Self:
        """All tensors on the device; to a GPU through pinned memory."""
        moved = {name: placed(value, device) for name, value in self._fields().items() if isinstance(value, Tensor)}
        return self if all(value is getattr(self, name) for name, value in moved.items()) else replace(self, **moved)


@dataclass(frozen=True)
class PartialResponse(TensorResponse):
    """Base of responses that keep some classes `ids` [B, K] or [B, T, K] at one temperature."""

    ids: Tensor
    temperature: float
    num_classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, C] or [B, T, C]."""
        return (*self.ids.shape[:-1], self.num_classes)

    @property
    def fixed_temperature(self) -> float:
        """The temperature at which it was kept."""
        return self.temperature

    def check(self, student_logits: Tensor, temperature: float | Tensor) -> None:
        """Refuse another number of classes, and another temperature than the one that was kept."""
        if student_logits.shape[-1] != self.num_classes:
            raise NeedsError(
                f"the student has {student_logits.shape[-1]} classes, the teacher's answers are of {self.num_classes}",
                "the same classes in the same order on both sides",
                "give the student the teacher's classes",
            )
        kept = self.temperature
        if isinstance(temperature, Tensor) or float(temperature) != kept:
            given = "a tensor" if isinstance(temperature, Tensor) else temperature
            raise NeedsError(
                f"the teacher's answers were kept as {self.name!r} at temperature {kept}, the loss has temperature {given}",
                f"the temperature {kept}",
                f"set the loss's temperature to {kept}, or keep the answers at another temperature",
            )


def placed(values: Tensor, device: torch.device) -> Tensor:
    """On the device; to a GPU through pinned memory, so that the copy does not wait for what the GPU still computes."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def checked_count(name: str, value: int) -> int:
    """How many entries are kept, a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RecipeError(f"{name} is {value!r}", "a whole number above 0", f"for example {name}: 64")
    return value


def _packed(value: Any) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return array.astype(np.int32) if array.dtype == np.int64 else array


def _unpacked(array: np.ndarray) -> Any:
    if array.ndim == 0:
        return array.item()
    return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int32 else array)
