"""Pairs of blocks by measured similarity."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from potstill.errors import DataError
from potstill.methods.contract import ModelFacts
from potstill.methods.layers import match_blocks, pair_by_similarity, pair_layers
from potstill.methods.similarity import best_rising, block_similarity
from potstill.models.taps import TapReader


def encoder(layers: int, width: int = 16) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=40,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.4,
    )
    return BertForSequenceClassification(config).eval()


def batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    made = []
    for _ in range(count):
        ids = torch.randint(1, 40, (16, 8))
        mask = torch.ones_like(ids)
        mask[::3, 5:] = 0
        made.append({"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(16), "row_id": torch.arange(16)})
    return made


def test_blocks_kept_by_a_cut_student_are_found_again():
    torch.manual_seed(0)
    teacher = encoder(6)
    student = encoder(6)
    student.load_state_dict(teacher.state_dict())
    student.bert.encoder.layer = nn.ModuleList(list(student.bert.encoder.layer)[:2])
    student.config.num_hidden_layers = 2
    assert pair_by_similarity(student, teacher, batches(), TapReader().read) == [(1, 1), (2, 2)]
    assert pair_by_similarity(teacher, student, batches(), TapReader().read) == [(1, 1), (2, 2)]


def test_equal_blocks_have_similarity_one_and_pads_do_not_count():
    torch.manual_seed(0)
    model = encoder(3)
    rows = batches()
    similarity = block_similarity(model, model, rows, TapReader().read)
    assert torch.allclose(similarity.diag(), torch.ones(3, dtype=torch.float64))
    longer = [{**row, **{k: nn.functional.pad(row[k], (0, 4), value=0) for k in ("input_ids", "attention_mask")}} for row in rows]
    assert torch.allclose(block_similarity(model, model, longer, TapReader().read), similarity, atol=1e-5)


def test_the_teacher_reads_its_own_inputs():
    torch.manual_seed(0)
    model, rows = encoder(2), batches()
    both = [
        {**row, "teacher_input_ids": row["input_ids"].flip(0), "teacher_attention_mask": row["attention_mask"]} for row in rows
    ]
    assert block_similarity(model, model, both, TapReader().read).diag().max() < 0.9


@pytest.mark.parametrize("shape", [(2, 5), (3, 3), (1, 4), (4, 2)])
def test_best_rising_equals_trying_all(shape):
    similarity = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))
    pairs = best_rising(similarity)
    short, long = min(shape), max(shape)
    choices = [list(zip(range(short), chosen, strict=True)) for chosen in itertools.combinations(range(long), short)]
    table = similarity if shape[0] <= shape[1] else similarity.T
    best = max(sum(float(table[row, column]) for row, column in choice) for choice in choices)
    assert sum(float(similarity[row - 1, column - 1]) for row, column in pairs) == pytest.approx(best)


def test_too_few_rows_are_refused():
    model = encoder(2)
    with pytest.raises(DataError, match=r"0 rows were given to compare blocks\. Accepted: at least 4"):
        pair_by_similarity(model, model, [], TapReader().read)


def test_stages_of_convolutional_nets_are_paired_by_their_grids():
    student = ModelFacts(3, 8, None, "image", strides=(4, 8, 16))
    teacher = ModelFacts(4, 8, None, "image", strides=(4, 8, 16, 32))
    assert pair_layers("auto", student, teacher) == [(1, 1), (2, 2), (3, 3)]
    assert pair_layers("uniform", student, teacher) == [(1, 1), (2, 3), (3, 4)]


def test_measured_pairs_take_the_place_of_expected_ones_where_they_are_clearly_more_alike():
    expected = [(1, 2), (2, 4)]
    similarity = torch.full((2, 4), 0.5)
    similarity[0, 0] = similarity[1, 2] = 0.51
    assert match_blocks(similarity, expected)[0] == expected
    similarity[1, 2] = 0.9
    pairs, found, known = match_blocks(similarity, expected)
    assert pairs == [(1, 1), (2, 3)]
    assert found == pytest.approx(0.705)
    assert known == pytest.approx(0.5)


def test_measured_pairs_come_before_those_of_the_cut_and_after_those_of_the_grids():
    student = ModelFacts(2, 16, 2, "text", kept_layers=(2, 4), matched=((1, 1), (2, 3)))
    teacher = ModelFacts(4, 16, 2, "text")
    assert pair_layers("auto", student, teacher) == [(1, 1), (2, 3)]
    assert pair_layers("uniform", student, teacher) == [(1, 2), (2, 4)]
    maps = ModelFacts(2, 8, None, "image", strides=(4, 8), matched=((1, 1), (2, 3)))
    assert pair_layers("auto", maps, ModelFacts(3, 8, None, "image", strides=(4, 8, 16))) == [(1, 1), (2, 2)]
