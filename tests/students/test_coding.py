"""Product codes: what they rebuild, what the metric and the weights change, and that the module looks up what they say."""

from __future__ import annotations

import pytest
import torch

from potstill.models.architectures.coded import CodedEmbedding, LowRankEmbedding, code_type
from potstill.models.families.product_codes import product_codes, rebuilt


def error(table, groups, codes, weights=None, metric=None):
    weights = torch.ones(len(table)) if weights is None else weights
    assigned, tables = product_codes(table, weights, groups=groups, codes=codes, metric=metric)
    return (rebuilt(assigned, tables) - table).square().sum(1)


def test_enough_codes_lose_nothing_and_more_codes_lose_less():
    table = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    assert error(table, 3, 40).max() < 1e-8
    losses = [float(error(table, 3, codes).sum()) for codes in (2, 8, 24)]
    assert losses[0] > losses[1] > losses[2] > 0


def test_more_groups_rebuild_better_with_as_many_numbers():
    table = torch.randn(400, 24, generator=torch.Generator().manual_seed(1))
    assert error(table, 12, 32).sum() < error(table, 2, 32).sum()


def test_heavy_rows_are_rebuilt_best():
    table = torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    weights = torch.ones(200)
    weights[:10] = 100
    lost = error(table, 1, 16, weights=weights)
    assert lost[:10].mean() < 0.1 * lost[10:].mean()


def test_directions_that_matter_are_rebuilt_best():
    table = torch.randn(300, 8, generator=torch.Generator().manual_seed(3))
    metric = torch.diag(torch.tensor([100.0] + [1.0] * 7))
    assigned, tables = product_codes(table, torch.ones(300), groups=2, codes=8, metric=metric)
    lost = (rebuilt(assigned, tables) - table).square().mean(0)
    assert lost[0] < 0.25 * lost[1:4].mean()


def test_the_module_looks_up_what_the_codes_say():
    table = torch.randn(30, 12, generator=torch.Generator().manual_seed(4))
    assigned, tables = product_codes(table, torch.ones(30), groups=4, codes=9)
    module = CodedEmbedding(30, 12, groups=4, codes=9)
    module.fill(assigned, tables)
    ids = torch.tensor([[3, 29, 0]])
    torch.testing.assert_close(module(ids), rebuilt(assigned, tables)[ids], atol=0, rtol=0)
    torch.testing.assert_close(module.weight, rebuilt(assigned, tables), atol=0, rtol=0)
    module(ids).sum().backward()
    assert module.tables.grad is not None
    assert (module.tables.grad.abs().sum(1) > 0).sum() <= 3 * 4


def test_codes_take_the_smallest_integer_that_numbers_them():
    assert code_type(16, 2048) == torch.int16
    assert code_type(16, 2049) == torch.int32


def test_groups_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="width 10 are to be put together from 4 pieces"):
        CodedEmbedding(5, 10, groups=4, codes=2)


def test_a_low_rank_table_is_the_best_of_its_rank_and_exact_where_the_rank_suffices():
    smooth = torch.outer(torch.linspace(0, 1, 20), torch.randn(6)) + 0.5
    module = LowRankEmbedding(20, 6, rank=2)
    module.fill(smooth)
    torch.testing.assert_close(module(torch.arange(20)), smooth, atol=1e-5, rtol=1e-5)
    wide = LowRankEmbedding(4, 6, rank=32)
    table = torch.randn(4, 6)
    wide.fill(table)
    torch.testing.assert_close(wide.weight, table, atol=1e-5, rtol=1e-5)
