"""Quarter turns of a batch of images."""

from __future__ import annotations

import pytest
import torch

from potstill.errors import DataError
from potstill.modalities.image.quarter_turns import TurnedCollator


def batch_of(height: int = 4, width: int = 4):
    pixels = torch.arange(2 * 3 * height * width, dtype=torch.float32).view(2, 3, height, width)
    return {"pixel_values": pixels, "labels": torch.tensor([1, 0]), "row_id": torch.tensor([7, 9])}


def test_four_views_in_the_order_of_the_rows():
    batch = TurnedCollator(lambda rows: batch_of())([])
    assert batch["view"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch["row_id"].tolist() == [7, 9] * 4
    assert batch["labels"].tolist() == [1, 0] + [-100] * 6
    plain = batch_of()["pixel_values"]
    assert torch.equal(batch["pixel_values"][:2], plain)
    for turn in (1, 2, 3):
        view = batch["pixel_values"][2 * turn : 2 * turn + 2]
        assert torch.equal(torch.rot90(view, -turn, (-2, -1)), plain)


@pytest.mark.parametrize(
    ("batch", "words"), [(batch_of(4, 5), "images of 4 × 5 pixels"), ({"input_ids": torch.ones(2, 3)}, "they hold no images")]
)
def test_what_cannot_be_turned(batch, words):
    with pytest.raises(DataError, match=words):
        TurnedCollator(lambda rows: batch)([])
