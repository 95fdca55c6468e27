"""Rows with several units → one batch, padded to its longest row and its largest number of units."""

# B batch, T tokens of the longest row, U units of the row with most

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from potstill.data.collate import TextCollator
from potstill.data.unit_rows import PADDING

NO_LABEL = -100


@dataclass(frozen=True)
class UnitCollator:
    """Pads tokens as `TextCollator` does, and units beside them.

    Gives the keys of `TextCollator`, with ``labels`` [B, U] (−100 where there is none) and ``unit_positions`` [B, U], the first
    token of each unit: `unit_rows.ABSENT` where it has none, `unit_rows.PADDING` beyond the row's units. Rows with
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


def _padded(arrays: Sequence[np.ndarray], fill: int) -> torch.Tensor:
    """[B, U] int64, at least one unit wide."""
    width = max(1, *(len(array) for array in arrays))
    padded = np.full((len(arrays), width), fill, np.int64)
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    return torch.from_numpy(padded)
