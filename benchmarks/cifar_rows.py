"""CIFAR-10 in memory: images decoded once, shifted and flipped views drawn by row and epoch."""

# B batch, H and W pixels

from __future__ import annotations

import io
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

DATA = Path(os.environ.get("POTSTILL_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")) / "cifar10"
CLASSES = 10
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BORDER = 8  # a view is shifted by up to an eighth of the side


class Views(Dataset[dict[str, Any]]):
    """Images with their labels; each epoch sees another shift and flip of each, the same for every method of a seed.

    Args:
        pixels: [N, H, W, 3] uint8.
        labels: [N] int64.
        is_augmented: Whether views are shifted and flipped.

    Attributes:
        view: Number of the epoch.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, *, is_augmented: bool) -> None:
        self.pixels, self.labels, self.is_augmented, self.view = pixels, labels, is_augmented, 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "view": self.view}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Many at once; the pixels are fetched by `collate`."""
        return [{"index": index, "view": self.view} for index in indices]

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """``pixel_values`` [B, 3, H, W] float, ``labels``, ``row_id``, ``row_index`` and ``view``, the epoch, [B]."""
        index = np.array([row["index"] for row in rows])
        values = self.pixels[index]
        if self.is_augmented:
            values = self._viewed(values, index, rows[0]["view"])
        tensor = torch.from_numpy(values).permute(0, 3, 1, 2).float().div_(255)
        tensor = (tensor - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
        ids = torch.from_numpy(index)
        labels = torch.from_numpy(self.labels[index])
        pixels = tensor.contiguous(memory_format=torch.channels_last)
        return {
            "pixel_values": pixels,
            "labels": labels,
            "row_id": ids,
            "row_index": ids,
            "view": torch.full_like(ids, rows[0]["view"]),
        }

    def _viewed(self, values: np.ndarray, index: np.ndarray, view: int) -> np.ndarray:
        side = values.shape[1]
        most = side // BORDER
        drawn = _drawn(len(self), view, most)[index]
        padded = np.pad(values, ((0, 0), (most, most), (most, most), (0, 0)))
        places = np.arange(side)
        rows, columns = drawn[:, :1] + places, drawn[:, 1:2] + places
        columns = np.where(drawn[:, 2:] == 1, columns[:, ::-1], columns)
        return padded[np.arange(len(index))[:, None, None], rows[:, :, None], columns[:, None, :]]


@lru_cache(maxsize=4)
def _drawn(count: int, view: int, most: int) -> np.ndarray:
    """[N, 3]: shift down, shift right, and whether flipped, of every image in one epoch."""
    chance = np.random.default_rng([7, view])
    return np.stack([*chance.integers(0, 2 * most + 1, (2, count)), chance.integers(0, 2, count)], axis=1)


def load(num_train: int, num_test: int, side: int) -> tuple[Views, Views]:
    """The first images of both splits, scaled to `side` pixels."""
    if not DATA.is_dir():
        sys.exit(f"{DATA} does not exist: set POTSTILL_DATA to the folder that holds cifar10")
    return (
        Views(*_read("train", num_train, side), is_augmented=True),
        Views(*_read("test", num_test, side), is_augmented=False),
    )


@lru_cache(maxsize=4)
def _read(split: str, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow.parquet
    from PIL import Image

    held = pyarrow.parquet.read_table(DATA / f"{split}.parquet").slice(0, count).to_pydict()
    images = [value["bytes"] if isinstance(value, dict) else value for value in held["image"]]
    opened = (Image.open(io.BytesIO(image)).convert("RGB") for image in images)
    scaled = [image if image.width == side else image.resize((side, side), Image.Resampling.BOX) for image in opened]
    return np.stack([np.asarray(image, dtype=np.uint8) for image in scaled]), np.asarray(held["label"], dtype=np.int64)
