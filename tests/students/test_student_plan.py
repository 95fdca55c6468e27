"""Plans: every kind of budget, what is refused, and what a plan says."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import BertConfig, ResNetConfig, ViTConfig

from potstill.errors import ModelError, RecipeError
from potstill.models.size import flops
from potstill.students.cut import cut_student
from potstill.students.plan import plan, plan_from_config, spaced_layers
from students.builders import tiny_batches, tiny_config, tiny_model

MINILM = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536, num_labels=2)


def test_each_budget_lands():
    whole = plan(MINILM, ratio=0).parameters
    assert plan(MINILM, params=5_000_000).parameters == pytest.approx(5_000_000, rel=0.02)
    assert plan(MINILM, bytes=20_000_000).bytes == pytest.approx(20_000_000, rel=0.02)
    assert plan(MINILM, ratio=0.9).teacher_parameters == whole


def test_a_latency_budget_takes_the_largest_student_below_it():
    def latency_of(config):
        return flops(config) / 1e9

    planned = plan(MINILM, latency_ms=1.0, latency_of=latency_of)
    assert latency_of(planned.build_config()) <= 1.0
    assert planned.ratio < 0.9
    with pytest.raises(RecipeError, match="below what the smallest student of this teacher needs"):
        plan(MINILM, latency_ms=0.001, latency_of=latency_of)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, r"0 budgets are given \(none\).*exactly one of ratio, params"),
        ({"ratio": 0.5, "params": 7}, "2 budgets are given"),
        ({"ratio": 1.2}, r"ratio=1.2 means a ratio of 1.200.*ask for ratio 0.10 to 0.95"),
        ({"params": 10}, "params=10 means a ratio of 1.000"),
        ({"latency_ms": 3.0}, "without a way to measure the latency.*pass latency_of="),
    ],
)
def test_impossible_budgets_are_refused(budget, message):
    with pytest.raises(RecipeError, match=message):
        plan(MINILM, **budget)


def test_rare_tokens_go_first_and_the_required_ones_stay():
    counts = {token: int(1e7 / (token + 1) ** 1.5) + 1 for token in range(15_000)}
    planned = plan(MINILM, ratio=0.9, token_counts=counts, embeddings="table")
    assert planned.vocabulary is not None
    assert planned.vocabulary < 15_000
    assert planned.build_config().vocab_size == planned.vocabulary
    assert "of the data's token occurrences" in planned.notes[-1]
    asked = plan(MINILM, ratio=0.9, token_counts=counts, min_vocabulary=planned.vocabulary + 800, embeddings="table")
    assert asked.vocabulary is not None
    assert asked.vocabulary >= planned.vocabulary + 800
    assert plan(MINILM, ratio=0.9, token_counts=np.ones(30522, dtype=int)).ratio == pytest.approx(0.9, abs=0.01)


def test_a_model_too_small_to_land_says_so():
    planned = plan(tiny_config("bert", vocab_size=8, max_position_embeddings=4), ratio=0.95)
    assert abs(planned.ratio - 0.95) <= 0.01 or "the nearest regular architecture gives" in planned.notes[-1]


def test_small_image_models_can_lose_nine_tenths():
    for config in (
        ViTConfig(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256, image_size=8, patch_size=2),
        ResNetConfig(embedding_size=32, hidden_sizes=[64, 128], depths=[2, 2], layer_type="basic"),
    ):
        assert plan(config, ratio=0.9).ratio == pytest.approx(0.9, abs=0.01)


def test_a_named_configuration_is_planned_and_cut():
    teacher = tiny_model("bert")
    planned = plan_from_config(teacher, tiny_config("bert", num_hidden_layers=2, intermediate_size=32, num_labels=7))
    assert (planned.layers, planned.build_config().num_labels) == ((2, 3), 3)
    student = cut_student(teacher, planned, tiny_batches("bert"))
    assert sum(p.numel() for p in student.parameters()) == planned.parameters
    with pytest.raises(ModelError, match=r"the student \./nowhere cannot be read as a model"):
        plan_from_config(teacher, "./nowhere")


def test_layers_are_spread_and_end_with_the_last():
    assert spaced_layers(6, 2) == (3, 6)
    assert spaced_layers(12, 12) == tuple(range(1, 13))
    for total in range(1, 25):
        for kept in range(1, total + 1):
            layers = spaced_layers(total, kept)
            assert len(set(layers)) == kept
            assert layers[-1] == total
            assert list(layers) == sorted(layers)


def test_cuts_that_cannot_be_made_are_told():
    teacher = tiny_model("bert")
    with pytest.raises(ModelError, match=r"no calibration batch is given.*pass batches="):
        cut_student(teacher, plan(teacher, ratio=0.4))
    with pytest.raises(ModelError, match="a vit student cannot be cut out of a bert teacher"):
        cut_student(teacher, plan(tiny_model("vit"), ratio=0))
    larger = plan_from_config(teacher, tiny_config("bert", intermediate_size=128))
    with pytest.raises(ModelError, match="the student has 128 FFN neurons, the teacher only 64"):
        cut_student(teacher, larger, tiny_batches("bert"))
    counts = {token: 120 - token for token in range(60)}
    cut_plan = plan(teacher, ratio=0.6, token_counts=counts)
    if cut_plan.vocabulary is not None:
        with pytest.raises(ModelError, match=r"no vocabulary cut is given.*call cut_vocabulary"):
            cut_student(teacher, cut_plan, tiny_batches("bert"))
