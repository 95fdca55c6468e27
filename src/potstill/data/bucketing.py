"""Batches of rows of like length, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

_WINDOW_BATCHES = 50


class BucketBatchSampler(Sampler[list[int]]):
    """Batches whose rows have nearly the same length.

    Each epoch the rows are shuffled, cut into windows of 50 batches, sorted by length inside each window, cut into
    batches, and the batches are shuffled. The order follows from (seed, epoch) alone, so a resumed run sees the same
    batches. Without `shuffle` the rows are sorted by length, longest first, which is best for evaluation.

    Args:
        lengths: Length of each row [N], in tokens.
        batch_size: Rows in a batch.
        seed: Fixes the shuffling together with the epoch.
        shuffle: Whether rows are shuffled anew each epoch.
        drop_last: Whether an incomplete batch is left out.

    Example:
        >>> [len(batch) for batch in BucketBatchSampler([3, 9, 3, 8, 2], 2, shuffle=False)]
        [2, 2, 1]
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.shuffle, self.drop_last = int(batch_size), seed, shuffle, drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._shuffled() if self.shuffle else self._cut(np.argsort(-self.lengths, kind="stable"))
        for batch in batches:
            yield batch.tolist()

    def _shuffled(self) -> list[np.ndarray]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        window = self.batch_size * _WINDOW_BATCHES
        parts = [order[start : start + window] for start in range(0, len(order), window)]
        batches = [batch for part in parts for batch in self._cut(part[np.argsort(self.lengths[part], kind="stable")])]
        return [batches[i] for i in random.permutation(len(batches))]

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return [batch for batch in batches if len(batch) == self.batch_size or not self.drop_last]
