"""Buckets: every row once, short padding, an order that follows from seed and epoch alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data import BucketBatchSampler


@settings(max_examples=60, deadline=None)
@given(num=st.integers(1, 300), size=st.integers(1, 40), epoch=st.integers(0, 5), shuffle=st.booleans())
def test_every_row_once(num: int, size: int, epoch: int, shuffle: bool) -> None:
    lengths = np.random.default_rng(num).integers(1, 50, num)
    sampler = BucketBatchSampler(lengths, size, shuffle=shuffle)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(num))
    assert len(batches) == len(sampler)
    assert max(map(len, batches)) <= size


@pytest.mark.parametrize("num", [64, 70, 6400])
def test_all_batches_but_one_are_full(num: int) -> None:
    batches = list(BucketBatchSampler(np.arange(num) % 17, 32))
    assert sum(len(batch) != 32 for batch in batches) == (1 if num % 32 else 0)
    whole = BucketBatchSampler(np.arange(num) % 17, 32, drop_last=True)
    assert all(len(batch) == 32 for batch in whole)
    assert len(list(whole)) == len(whole) == num // 32


def test_order_follows_from_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = BucketBatchSampler(np.arange(500) % 40, 8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_padding_is_a_fraction_of_that_of_random_batches() -> None:
    lengths = np.random.default_rng(0).gamma(2, 12, 4000).astype(int) + 2

    def padded(batches: list) -> int:
        return sum(len(batch) * lengths[batch].max() for batch in batches)

    shuffled = np.random.default_rng(1).permutation(4000).reshape(-1, 32)
    waste = padded(list(BucketBatchSampler(lengths, 32))) - lengths.sum()
    assert waste < 0.1 * (padded(list(shuffled)) - lengths.sum())
