"""Encoded rows → one batch of tensors, padded to its longest row."""

# B batch, T tokens of the longest row, U units of the row with most, C channels, H height, W width

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from potstill.contracts.answers import NO_LABEL
from potstill.data.row_files import PADDING

TASK_CLASSES = "task_classes"
"""Key of a batch with rows of several tasks: the first class of each row's task and the one after its last [B, 2] int64."""
NOT_INPUTS = frozenset({"labels", "row_id", "row_index", "view", "unit_positions", "unit_ends", TASK_CLASSES})
"""What a batch carries besides the inputs of a model."""


@dataclass(frozen=True)
class TextCollator:
    """Pads token ids to the longest row of the batch.

    Gives ``input_ids`` [B, T], ``attention_mask`` [B, T], ``token_type_ids`` [B, T] where the rows have them, ``labels`` [B] and
    ``row_id`` [B], all int64.

    Attributes:
        pad_token_id: Fills what a row lacks.
        padding_side: ``"right"`` or ``"left"``.
        pad_token_type_id: Fills token types.
    """

    pad_token_id: int = 0
    padding_side: str = "right"
    pad_token_type_id: int = 0

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = np.array([len(row["input_ids"]) for row in rows])
        longest = int(lengths.max(initial=1))
        places = np.arange(longest)
        mask = places < lengths[:, None] if self.padding_side == "right" else places >= longest - lengths[:, None]
        batch = {"input_ids": self._padded(rows, "input_ids", mask, self.pad_token_id)}
        batch["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
        if "token_type_ids" in rows[0]:
            batch["token_type_ids"] = self._padded(rows, "token_type_ids", mask, self.pad_token_type_id)
        return batch | _identity(rows)

    @staticmethod
    def _padded(rows: Sequence[dict[str, Any]], name: str, mask: np.ndarray, fill: int) -> torch.Tensor:
        padded = np.full(mask.shape, fill, np.int64)
        padded[mask] = np.concatenate([row[name] for row in rows])
        return torch.from_numpy(padded)


@dataclass(frozen=True)
class UnitCollator:
    """Pads tokens as `TextCollator` does, and units.

    Gives the keys of `TextCollator`, with ``labels`` [B, U] (−100 where there is none) and ``unit_positions`` [B, U], the first
    token of each unit: `row_files.ABSENT` where it has none, `row_files.PADDING` beyond the row's units. Rows with
    ``unit_ends`` give those too, and ``labels`` [B, 2], the first and the last unit of the span.

    Attributes:
        tokens: Pads the tokens.
    """

    tokens: TextCollator

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.tokens([row | {"labels": NO_LABEL} for row in rows])
        width = batch["input_ids"].shape[1]
        lengths = [len(row["input_ids"]) for row in rows]
        shifts = [0 if self.tokens.padding_side == "right" else width - length for length in lengths]
        for name in ("unit_positions", "unit_ends"):
            if name in rows[0]:
                moved = [np.where(row[name] >= 0, row[name] + shift, row[name]) for row, shift in zip(rows, shifts)]
                batch[name] = _padded(moved, PADDING)
        batch["labels"] = _padded([row["labels"] for row in rows], NO_LABEL)
        return batch


@dataclass(frozen=True)
class ImageCollator:
    """Stacks images and scales and normalises them as the image processor would: (pixel · factor − mean) / deviation.

    Gives ``pixel_values`` [B, C, H, W] float32, ``labels`` [B] and ``row_id`` [B] int64.

    Attributes:
        factor: What a byte is multiplied by; 1 where the processor does not rescale.
        mean: Taken off each channel; empty where the processor does not normalise.
        deviation: Divides each channel.
    """

    factor: float = 1 / 255
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = torch.from_numpy(np.stack([row["pixel_values"] for row in rows])).float().mul_(self.factor)
        if self.mean:
            channels = pixels.shape[1]
            mean = torch.tensor(self.mean, dtype=torch.float32).expand(channels)
            deviation = torch.tensor(self.deviation, dtype=torch.float32).expand(channels)
            pixels.sub_(mean[:, None, None]).div_(deviation[:, None, None])
        return {"pixel_values": pixels} | _identity(rows)

    @classmethod
    def of(cls, processor: Any) -> ImageCollator:
        """The collator that continues what an image processor began."""
        factor = float(processor.rescale_factor) if getattr(processor, "do_rescale", True) else 1.0
        if not getattr(processor, "do_normalize", True):
            return cls(factor)
        return cls(factor, _numbers(processor.image_mean), _numbers(processor.image_std))


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(item) for item in value) if isinstance(value, list | tuple) else (float(value),)


def _identity(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    labels = np.asarray([row["labels"] for row in rows])
    labels = labels.astype(np.float32 if np.issubdtype(labels.dtype, np.floating) else np.int64)
    return {"labels": torch.from_numpy(labels), "row_id": torch.tensor([row["row_id"] for row in rows], dtype=torch.int64)}


def _padded(arrays: Sequence[np.ndarray], fill: int) -> torch.Tensor:
    """[B, U] int64, at least one unit wide."""
    width = max(1, *(len(array) for array in arrays))
    padded = np.full((len(arrays), width), fill, np.int64)
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    return torch.from_numpy(padded)
