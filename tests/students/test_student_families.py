"""Every family's paths lead to modules that exist and do what their role says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from potstill.errors import ModelError, NeedsError
from potstill.methods.contract import facts_of
from potstill.models.families import FAMILIES, family_of
from potstill.models.families.base import BLOCK_ROLES
from potstill.models.families.encoder import Encoder
from potstill.models.taps import Taps
from students.builders import ALL_TYPES, CONVOLUTIONAL, tiny_batches, tiny_model


def test_the_builders_cover_the_table():
    assert set(ALL_TYPES) == set(FAMILIES)


@pytest.mark.parametrize("model_type", ALL_TYPES)
def test_parts_exist_with_the_shapes_of_the_configuration(model_type):
    model = tiny_model(model_type)
    family = family_of(model)
    assert type(model).__name__ == family.architecture
    assert family.head(model).out_features == 3
    assert isinstance(family.embedding(model), nn.Module)
    if not isinstance(family, Encoder):
        assert len(family.blocks(model)) == len(family.size(model.config, "layers")) == len(family.size(model.config, "hidden"))
        return
    assert len(family.blocks(model)) == family.size(model.config, "layers")
    for k in (1, -1):
        assert all(family.part(model, k, role) is not None for role in BLOCK_ROLES)
        assert family.part(model, k, "query").out_features == family.size(model.config, "heads") * family.head_size(model.config)
        assert family.part(model, k, "up").out_features == family.size(model.config, "ffn")


@pytest.mark.parametrize("model_type", ALL_TYPES)
def test_embedding_output_enters_the_first_block(model_type):
    model = tiny_model(model_type)
    family, seen = family_of(model), {}
    handles = [
        family.embedding(model).register_forward_hook(lambda m, i, o: seen.update(embedding=o)),
        first_block(family, model).register_forward_pre_hook(lambda m, i: seen.update(block=i[0])),
    ]
    batch = tiny_batches(model_type, 1)[0]
    with torch.no_grad():
        model(**{name: value for name, value in batch.items() if name not in ("row_id", "labels")})
    for handle in handles:
        handle.remove()
    assert torch.equal(seen["embedding"], seen["block"])


def first_block(family, model):
    """The module that the embedding enters; where stages are runs of blocks, the first of them."""
    return next(family.base(model).get_submodule(family.blocks_path).children())


@pytest.mark.parametrize("model_type", CONVOLUTIONAL)
def test_stages_end_where_the_grid_shrinks(model_type):
    model = tiny_model(model_type)
    needs = [f"hidden:{k}" for k in range(1, len(family_of(model).blocks(model)) + 1)]
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        _, values = Taps(model, needs).run({"pixel_values": pixels})
    facts = facts_of(model)
    assert tuple(64 // values[need].shape[-1] for need in needs) == facts.strides
    assert tuple(values[need].shape[1] for need in needs) == tuple(family_of(model).size(model.config, "hidden"))


def test_unknown_model_types_and_blocks_are_told_in_three_beats():
    with pytest.raises(ModelError, match=r"model type 'gpt2' .* Accepted: bert, .*What to do: take a teacher"):
        family_of("gpt2")
    model = tiny_model("resnet")
    with pytest.raises(NeedsError, match=r"'query' of a block is asked of a resnet model.*Accepted: .*bert"):
        family_of(model).part(model, 1, "query")
    bert = tiny_model("bert")
    with pytest.raises(NeedsError, match=r"block 4 of a bert model with 3 blocks.*1 to 3.*-1 for the last"):
        family_of(bert).block(bert, 4)
    with pytest.raises(NeedsError, match="has no classification head"):
        family_of(bert).head(bert.base_model)
