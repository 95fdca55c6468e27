"""Batches of images and their quarter turns."""

# B rows, C channels, H height, W width

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from potstill.contracts.answers import NO_LABEL
from potstill.errors import DataError

TURNS = 4


@dataclass(frozen=True)
class TurnedCollator:
    """A batch of B images becomes one of 4 B: as they are, then turned by 90, 180 and 270 degrees.

    The turned rows keep their ``row_id`` and have no label; ``view`` [4 B] is 0 for the plain ones and counts the quarter turns.

    Args:
        base: The collator of the images.

    Raises:
        DataError: The rows are no images, or not square ones, whose turns would have another shape.
    """

    base: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Four views of each row."""
        batch = self.base(rows)
        pixels = batch.get("pixel_values")
        if pixels is None or pixels.shape[-1] != pixels.shape[-2]:
            shape = "no images" if pixels is None else f"images of {pixels.shape[-2]} × {pixels.shape[-1]} pixels"
            raise DataError(f"rows are turned, and they hold {shape}", "square images", "set distill.method: crd")
        count = len(pixels)
        turned = {
            name: value.repeat(TURNS, *[1] * (value.dim() - 1)) for name, value in batch.items() if _is_by_row(value, count)
        }
        for name, value in batch.items():
            if name.endswith("pixel_values"):
                turned[name] = torch.cat([torch.rot90(value, turn, (-2, -1)) for turn in range(TURNS)])
        view = torch.arange(TURNS).repeat_interleave(count)
        if "labels" in turned:
            turned["labels"] = torch.where(view == 0, turned["labels"], NO_LABEL)
        return {**batch, **turned, "view": view}


def _is_by_row(value: Any, count: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == count
