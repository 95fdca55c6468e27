"""Documents packed into windows, as rows that a decoder reads without looking from one document into another.

Shapes: B windows of a batch, T tokens of the longest window.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.contracts.answers import NO_LABEL
from potstill.modalities.language.documents import Documents

NO_SAMPLE = -1


def pack(lengths: Sequence[int] | np.ndarray, window: int) -> list[list[int]]:
    """Numbers of documents for each window: the longest first, each into the fullest window that still has room.

    Source: best-fit decreasing, as in Ding et al. 2024 (arXiv 2404.10830).

    Args:
        lengths: Tokens of each document, none above `window`.

    Example:
        >>> pack([3, 5, 2, 6], window=8)
        [[3, 2], [1, 0]]
    """
    windows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, number of the window), sorted
    for index in sorted(range(len(lengths)), key=lambda index: (-int(lengths[index]), index)):
        place = bisect_left(rooms, (int(lengths[index]), -1))
        if place == len(rooms):
            windows.append([index])
            room, number = window, len(windows) - 1
        else:
            room, number = rooms.pop(place)
            windows[number].append(index)
        if room > lengths[index]:
            insort(rooms, (room - int(lengths[index]), number))
    return windows


class PackedRows:
    """Windows of whole documents; unpacked, each document is a window of its own.

    A window is ``input_ids``, ``position_ids`` that start again with each document, ``sample_ids`` (the documents' numbers) and
    ``targets``, the token after each place, −100 where it is not learned or belongs to another document; all [T] int64.

    Args:
        window: Tokens of the longest window.
        is_packed: Whether documents share windows.
        only: Numbers of the documents that take part; None for all.
    """

    def __init__(self, documents: Documents, window: int, *, is_packed: bool = True, only: Sequence[int] | None = None) -> None:
        self.documents = documents
        numbers = np.arange(len(documents)) if only is None else np.asarray(only)
        lengths = documents.lengths
        places = pack(lengths[numbers], window) if is_packed else [[index] for index in range(len(numbers))]
        self.windows = [numbers[place].tolist() for place in places]
        self.lengths = np.array([lengths[window].sum() for window in self.windows], np.int64)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        parts: dict[str, list[np.ndarray]] = {"input_ids": [], "position_ids": [], "sample_ids": [], "targets": []}
        for number in self.windows[index]:
            document = self.documents[number]
            tokens = document.tokens.astype(np.int64)
            following = np.where(document.learned[1:], tokens[1:], NO_LABEL)
            parts["input_ids"].append(tokens)
            parts["position_ids"].append(np.arange(len(tokens)))
            parts["sample_ids"].append(np.full(len(tokens), number))
            parts["targets"].append(np.append(following, NO_LABEL))
        return {"row_id": index} | {name: np.concatenate(values) for name, values in parts.items()}


class WindowCollator:
    """Batches of windows, [B, T] int64 each: padded on the right with a document of its own that carries no loss."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The rows of a batch; positions of the padding start again, so that no token looks at it."""
        longest = max(len(row["input_ids"]) for row in rows)
        fills = {"input_ids": self.pad_token_id, "sample_ids": NO_SAMPLE, "targets": NO_LABEL}
        batch = {name: np.full((len(rows), longest), fill, np.int64) for name, fill in fills.items()}
        batch["position_ids"] = np.zeros((len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            for name, values in batch.items():
                values[number, :length] = row[name]
            batch["position_ids"][number, length:] = np.arange(longest - length)
        tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
        return tensors | {"row_id": torch.tensor([row["row_id"] for row in rows])}
