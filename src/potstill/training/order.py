"""The order of rows: a function of seed, epoch and rank alone, so that a resumed run meets the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from potstill.data.bucketing import BucketBatchSampler
from potstill.errors import TrainingError
from potstill.training.companions.contract import Companion
from potstill.training.row_memory import RowMemory


class ShuffledBatches(Sampler[list[int]]):
    """Shuffled batches for rows that have no lengths."""

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


_TIES = 1 << 40  # no number of an epoch


class PlannedBatches(ShuffledBatches):
    """Batches that a plan chooses: easy rows first, or rows drawn in proportion to their weights.

    An epoch has as many batches as a plain one. It is drawn in blocks of at most 50 batches: a curriculum takes each block from
    the easiest rows of the share that it has reached, each row once before one comes again; a focus draws rows in proportion to
    their weights, floor or ceil of the expected times (systematic sampling). Within a block rows of like length share a batch.
    The order follows from seed, epoch and the weights at the beginning of the epoch.

    Args:
        total_batches: Of the whole training, for the pace of a curriculum.
        lengths: [N] tokens of each row, or None.
    """

    def __init__(
        self,
        memory: RowMemory,
        batch_size: int,
        *,
        seed: int,
        total_batches: float,
        lengths: Sequence[int] | None = None,
        drop_last: bool = False,
    ) -> None:
        super().__init__(len(memory.row_ids), batch_size, seed=seed, drop_last=drop_last)
        self.plan, self.memory, self.total_batches = memory.plan, memory, max(1.0, total_batches)
        self.lengths = None if lengths is None else np.asarray(lengths)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        # rows of one difficulty in a drawn order: that of the file may be by class
        ties = np.random.default_rng((self.seed, _TIES)).permutation(self.num_rows)
        easiest = np.lexsort((ties, self.memory.difficulty.cpu().numpy()))
        weights = self.memory.weights_of_epoch(self.epoch) if self.plan.focus != "none" and self.plan.by == "sampling" else None
        had = np.zeros(0, dtype=np.int64)
        block = int(min(50, max(1, self.total_batches // 40)))
        for start in range(0, len(self), block):
            stop = min(start + block, len(self))
            count = min(stop * self.batch_size, self.num_rows) - start * self.batch_size
            reached = self.plan.competence((self.epoch * len(self) + start) / self.total_batches)
            pool = easiest[: max(min(count, self.num_rows), round(reached * self.num_rows))]
            if weights is None:
                drawn, had = _in_turn(pool, had, count, random)
            else:
                drawn = _by_weight(pool, weights, count, random)
            yield from self._cut(drawn, random)

    def _cut(self, drawn: np.ndarray, random: np.random.Generator) -> Iterator[list[int]]:
        if self.lengths is not None:
            drawn = drawn[np.argsort(self.lengths[drawn], kind="stable")]
        batches = [drawn[start : start + self.batch_size].tolist() for start in range(0, len(drawn), self.batch_size)]
        for position in random.permutation(len(batches)):
            yield batches[position]


def _in_turn(pool: np.ndarray, had: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` rows of the pool, first those that had no turn in this round; and all that have had one then."""
    drawn = random.permutation(np.setdiff1d(pool, had))[:count]
    had = np.concatenate([had, drawn])
    while len(drawn) < count:
        again = random.permutation(pool)[: count - len(drawn)]
        drawn, had = np.concatenate([drawn, again]), again
    return random.permutation(drawn), had


def _by_weight(pool: np.ndarray, weights: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` rows, each drawn floor or ceil of its expected times."""
    pool = random.permutation(pool)
    ends = np.cumsum(np.maximum(weights[pool], 0.0))
    if ends[-1] <= 0:
        ends = np.arange(1.0, len(pool) + 1)
    points = (np.arange(count) + random.random()) * ends[-1] / count
    return random.permutation(pool[np.minimum(np.searchsorted(ends, points, side="right"), len(pool) - 1)])


class RankBatches(Sampler[list[int]]):
    """The share of one rank: every `num_ranks`-th batch, the same number on every rank.

    Where the batches do not divide evenly, the first batches of the epoch are used again, so that no row is lost.
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
    """Batches of like length in a fixed order, for evaluation; every row once over all ranks."""

    def __init__(self, num_rows: int, batch_size: int, *, lengths: Sequence[int] | None, rank: int, num_ranks: int) -> None:
        order = np.arange(num_rows) if lengths is None else np.argsort(np.asarray(lengths), kind="stable")
        cut = [order[start : start + batch_size].tolist() for start in range(0, num_rows, batch_size)]
        self.batches = cut[rank::num_ranks]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def training_loader(
    dataset: Any,
    batch_size: int,
    collator: Any,
    args: Any,
    *,
    memory: RowMemory | None = None,
    companions: Sequence[Companion] = (),
) -> DataLoader[Any]:
    """Batches for training: of like length where the data set knows its `lengths`, else shuffled; or as a plan chooses them."""
    lengths, seed = _lengths_of(dataset, args), args.seed if args.data_seed is None else args.data_seed
    drop_last = args.dataloader_drop_last
    batches: Any
    if memory is not None and memory.plan.chooses_rows:
        total = _total_batches(len(dataset), batch_size, args)
        batches = PlannedBatches(memory, batch_size, seed=seed, total_batches=total, lengths=lengths, drop_last=drop_last)
    elif lengths is None:
        batches = ShuffledBatches(len(dataset), batch_size, seed=seed, drop_last=drop_last)
    else:
        batches = BucketBatchSampler(lengths, batch_size, seed=seed, drop_last=drop_last)
    for companion in companions:
        batches = companion.batches(batches, dataset, seed)
    return _loader(dataset, RankBatches(batches, rank=args.process_index, num_ranks=args.world_size), collator, args)


def _lengths_of(dataset: Any, args: Any) -> Sequence[int] | None:
    """The lengths of rows that are batched by them: where the data set knows them, or the arguments ask for it."""
    known: Sequence[int] | None = getattr(dataset, "lengths", None)
    if known is not None or args.train_sampling_strategy != "group_by_length":
        return known
    column = args.length_column_name
    if column in getattr(dataset, "column_names", ()):
        return list(dataset[column])
    if len(dataset) and "input_ids" not in dataset[0]:
        raise TrainingError(
            f"train_sampling_strategy is group_by_length, and the rows have neither input_ids nor the column {column!r}",
            "rows whose lengths are known",
            f"add the column {column}, or leave train_sampling_strategy out",
        )
    return [len(dataset[index]["input_ids"]) for index in range(len(dataset))]


def _total_batches(num_rows: int, batch_size: int, args: Any) -> float:
    """Batches of all ranks in the whole training."""
    if args.max_steps > 0:
        return float(args.max_steps * args.gradient_accumulation_steps * args.world_size)
    return float(args.num_train_epochs * -(-num_rows // batch_size))


def evaluation_loader(dataset: Any, collator: Any, args: Any) -> tuple[FixedBatches, DataLoader[Any]]:
    """Batches of like length in a fixed order, this rank's share of them: which rows they hold, and the batches."""
    batches = FixedBatches(
        len(dataset),
        args.eval_batch_size,
        lengths=getattr(dataset, "lengths", None),
        rank=args.process_index,
        num_ranks=args.world_size,
    )
    return batches, _loader(dataset, batches, collator, args)


def _loader(dataset: Any, batches: Sampler[list[int]], collator: Any, args: Any) -> DataLoader[Any]:
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
        multiprocessing_context=args.dataloader_multiprocessing_context if workers > 0 else None,
        in_order=args.dataloader_in_order,
        generator=torch.Generator().manual_seed(args.seed),
    )
