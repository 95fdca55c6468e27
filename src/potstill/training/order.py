"""The order of rows: a function of seed, epoch and rank alone, so that a resumed run meets the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class ShuffledBatches(Sampler[list[int]]):
    """Shuffled batches for rows that have no lengths.

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows a batch; the last one may be smaller.
        seed: With the epoch it decides the order.
        drop_last: Leave out a last batch that is not full.
    """

    def __init__(self, num_rows: int, batch_size: int, *, seed: int, drop_last: bool = False) -> None:
        self.num_rows, self.batch_size, self.seed, self.drop_last = num_rows, batch_size, seed, drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration shuffles for this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.num_rows, self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_rows)
        for position in range(len(self)):
            yield order[position * self.batch_size : (position + 1) * self.batch_size].tolist()


class RankBatches(Sampler[list[int]]):
    """The share of one rank: every `num_ranks`-th batch, the same number on every rank.

    Where the batches do not divide evenly, the first batches of the epoch are used again, so that no row is lost.

    Args:
        batches: A batch sampler with `set_epoch`.
        rank: This process, from 0.
        num_ranks: All processes.
    """

    def __init__(self, batches: Any, *, rank: int, num_ranks: int) -> None:
        self.batches, self.rank, self.num_ranks = batches, rank, num_ranks
        self.batch_size = getattr(batches, "batch_size", None)

    def set_epoch(self, epoch: int) -> None:
        """The next iteration shuffles for this epoch."""
        self.batches.set_epoch(epoch)

    @property
    def batch_sampler(self) -> RankBatches:
        """Itself: the trainer looks under this name for the sampler whose epoch it sets."""
        return self

    def __len__(self) -> int:
        return -(-len(self.batches) // self.num_ranks)

    def __iter__(self) -> Iterator[list[int]]:
        if self.num_ranks == 1:
            yield from self.batches
            return
        batches = list(self.batches)
        missing = -len(batches) % self.num_ranks
        yield from (batches + [batches[i % len(batches)] for i in range(missing)])[self.rank :: self.num_ranks]


class FixedBatches(Sampler[list[int]]):
    """Batches of like length in a fixed order, for evaluation; every row once over all ranks.

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows a batch.
        lengths: Tokens of each row; None keeps the order of the rows.
        rank: This process.
        num_ranks: All processes.
    """

    def __init__(self, num_rows: int, batch_size: int, *, lengths: Sequence[int] | None, rank: int, num_ranks: int) -> None:
        order = np.arange(num_rows) if lengths is None else np.argsort(np.asarray(lengths), kind="stable")
        cut = [order[start : start + batch_size].tolist() for start in range(0, num_rows, batch_size)]
        self.batches = cut[rank::num_ranks]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def training_batches(dataset: Any, batch_size: int, *, seed: int, drop_last: bool, rank: int, num_ranks: int) -> RankBatches:
    """Batches for training: of like length where the data set knows its `lengths`, else shuffled."""
    lengths = getattr(dataset, "lengths", None)
    batches: Any
    if lengths is None:
        batches = ShuffledBatches(len(dataset), batch_size, seed=seed, drop_last=drop_last)
    else:
        from potstill.data.bucketing import BucketBatchSampler

        batches = BucketBatchSampler(lengths, batch_size, seed=seed, drop_last=drop_last)
    return RankBatches(batches, rank=rank, num_ranks=num_ranks)


def loader(dataset: Dataset[Any], batches: Sampler[list[int]], collator: Any, args: Any) -> DataLoader[Any]:
    """A loader that draws nothing from the global random state, so that evaluation does not change training."""
    workers = args.dataloader_num_workers
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collator,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
        persistent_workers=args.dataloader_persistent_workers and workers > 0,
        prefetch_factor=args.dataloader_prefetch_factor if workers > 0 else None,
        generator=torch.Generator().manual_seed(args.seed),
    )
