"""CIFAR-10 on the device: pixels decoded once for all processes, and crops and flips drawn and cut there."""

# N images, B batch, H and W pixels

from __future__ import annotations

import io
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifar_rows import BORDER, DATA, DEVIATION, MEAN

CHUNK = 1000  # images that a process decodes at a time


def decode_once(split: str, count: int, side: int, folder: Path) -> Path:
    """Decode the first `count` images of a split into `folder`, on all cores, unless they are there; returns their file.

    Returns:
        An .npz of ``pixels`` [N, H, W, 3] uint8 and ``labels`` [N] int64.
    """
    import pyarrow.parquet

    file = folder / f"{split}-{count}-{side}.npz"
    if file.is_file():
        return file
    if not DATA.is_dir():
        sys.exit(f"{DATA} does not exist: set POTSTILL_DATA to the folder that holds cifar10")
    held = pyarrow.parquet.read_table(DATA / f"{split}.parquet").slice(0, count).to_pydict()
    images = [value["bytes"] if isinstance(value, dict) else value for value in held["image"]]
    chunks = [(images[start : start + CHUNK], side) for start in range(0, len(images), CHUNK)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("fork")) as pool:
        pixels = np.concatenate(list(pool.map(_decoded, chunks)))
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"partial-{os.getpid()}-{file.name}")
    np.savez(partial, pixels=pixels, labels=np.asarray(held["label"], dtype=np.int64))
    os.replace(partial, file)
    return file


def _decoded(chunk: tuple[list[bytes], int]) -> np.ndarray:
    from PIL import Image

    images, side = chunk
    opened = (Image.open(io.BytesIO(image)).convert("RGB") for image in images)
    scaled = (image if image.width == side else image.resize((side, side), Image.Resampling.BOX) for image in opened)
    return np.stack([np.asarray(image, dtype=np.uint8) for image in scaled])


class DeviceRows:
    """Images and labels on the device, given out in batches without waiting for it.

    Args:
        file: Of `decode_once`.
        device: Where they are kept and cut.
        seed: Of order, crops and flips.
    """

    def __init__(self, file: Path, device: torch.device, *, seed: int = 0) -> None:
        with np.load(file) as held:
            pixels, labels = torch.from_numpy(held["pixels"]), torch.from_numpy(held["labels"])
        self.side, self.device, self.seed = pixels.shape[1], device, seed
        self.most = self.side // BORDER
        edge = (0, 0, self.most, self.most, self.most, self.most)
        self._padded = torch.nn.functional.pad(pixels, edge).to(device)
        self._labels = labels.to(device)
        self._mean = (255 * torch.tensor(MEAN)).view(1, 3, 1, 1).to(device)
        self._deviation = (255 * torch.tensor(DEVIATION)).view(1, 3, 1, 1).to(device)
        self._places = torch.arange(self.side, device=device)

    def __len__(self) -> int:
        return len(self._labels)

    def epoch(self, number: int, batch: int) -> Iterator[dict[str, Tensor]]:
        """Batches of an epoch in an order of its own, shifted by up to an eighth of the side and flipped; a rest is left out.

        Args:
            number: Of the epoch; with the seed it decides order and views.
            batch: Rows of each.
        """
        chance = torch.Generator().manual_seed(1_000_003 * self.seed + number)
        order = torch.randperm(len(self), generator=chance)
        shifts = torch.randint(2 * self.most + 1, (len(self), 2), generator=chance)
        flips = torch.randint(2, (len(self),), generator=chance)
        order, shifts, flips = (value.to(self.device) for value in (order, shifts, flips))
        for start in range(0, len(self) - batch + 1, batch):
            own = slice(start, start + batch)
            yield self._batch(order[own], shifts[own], flips[own])

    def plain(self, batch: int) -> Iterator[tuple[dict[str, Tensor], int]]:
        """All rows as they are, in batches of one size; with each, how many of its last rows are new."""
        size = min(batch, len(self))
        centre = torch.full((size, 2), self.most, device=self.device)
        none = torch.zeros(size, dtype=torch.int64, device=self.device)
        for done in range(0, len(self), size):
            start = min(done, len(self) - size)
            rows = torch.arange(start, start + size, device=self.device)
            yield self._batch(rows, centre, none), start + size - done

    def _batch(self, rows: Tensor, shifts: Tensor, flips: Tensor) -> dict[str, Tensor]:
        down, right = shifts[:, :1] + self._places, shifts[:, 1:] + self._places
        right = torch.where(flips.unsqueeze(1) == 1, right.flip(1), right)
        cut = self._padded[rows[:, None, None], down[:, :, None], right[:, None, :]]
        pixels = cut.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._deviation)
        return {"pixel_values": pixels, "labels": self._labels[rows], "row_id": rows, "row_index": rows}
