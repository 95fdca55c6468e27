"""Batches in which every labelled row meets another one of its class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from potstill.losses.contract import IGNORED_LABEL
from potstill.training.companions.contract import Companion

_PAIR_STREAM = 0x9A1


class ClassPairs(Companion):
    """Every labelled row of a batch of training meets another one of its class."""

    def batches(self, batches: Any, dataset: Any, seed: int) -> Any:
        """The batches with their partners."""
        labels = getattr(dataset, "labels", None)
        known = [dataset[index]["labels"] for index in range(len(dataset))] if labels is None else labels
        return ClassPairBatches(batches, np.asarray(known), seed=seed)


class ClassPairBatches(Sampler[list[int]]):
    """The batches of another sampler, each followed by one partner of the same class for each of its labelled rows.

    A batch grows to at most twice its rows. A row that is alone in its class, or has no label, gets no partner. Partners
    follow from seed, epoch and the batch's number, so that a resumed run meets the same ones.
    """

    def __init__(self, batches: Any, labels: np.ndarray, *, seed: int) -> None:
        self.batches, self.seed, self.epoch = batches, seed, 0
        self.batch_size = getattr(batches, "batch_size", None)
        self.labels = np.asarray(labels)
        self._order = np.argsort(self.labels, kind="stable")
        ranked = self.labels[self._order]
        self._starts = np.searchsorted(ranked, self.labels, side="left")
        self._sizes = np.searchsorted(ranked, self.labels, side="right") - self._starts
        self._places = np.empty(len(self.labels), dtype=np.int64)
        self._places[self._order] = np.arange(len(self.labels))

    def set_epoch(self, epoch: int) -> None:
        """The next iteration draws for this epoch."""
        self.epoch = epoch
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(self.batches):
            draw = np.random.default_rng((self.seed, self.epoch, number, _PAIR_STREAM))
            yield [*batch, *self._partners(np.asarray(batch), draw)]

    def _partners(self, rows: np.ndarray, draw: np.random.Generator) -> list[int]:
        """For each row another one of its class, each of them as likely."""
        rows = rows[(self.labels[rows] != IGNORED_LABEL) & (self._sizes[rows] > 1)]
        steps = draw.integers(1, np.maximum(self._sizes[rows], 2))
        places = self._starts[rows] + (self._places[rows] - self._starts[rows] + steps) % self._sizes[rows]
        return [int(row) for row in self._order[places]]
