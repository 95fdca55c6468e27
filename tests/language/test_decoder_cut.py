"""Students cut out of decoders: the whole shape is the teacher, ratios are met, and what is cut is as if masked."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from language_builders import save_decoder, tiny_decoder, write_chats
from transformers import AutoModelForCausalLM

from potstill import DistillationPipeline
from potstill.errors import ModelError, RecipeError
from potstill.models.decoder import Decoder
from potstill.students.decoder import (
    TYPES,
    DecoderShape,
    Importance,
    cut_decoder,
    measure_importance,
    parameters_of,
    plan_decoder,
)

SIZES = {
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
BATCH = {
    "input_ids": torch.arange(120).view(4, 30) * 3 % 400,
    "position_ids": torch.arange(30).expand(4, 30),
    "sample_ids": torch.zeros(4, 30, dtype=torch.long),
}


def teacher_of(model_type: str) -> tuple[Any, DecoderShape, Importance]:
    decoder = Decoder(tiny_decoder(model_type, **SIZES))
    return decoder, DecoderShape.of(decoder.config), measure_importance(decoder, [BATCH])


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("model_type", TYPES)
def test_the_whole_shape_is_the_teacher_and_the_teacher_stays(model_type: str) -> None:
    decoder, whole, importance = teacher_of(model_type)
    before = copy.deepcopy(decoder.model.state_dict())
    student, kept = cut_decoder(decoder, whole, importance)
    assert kept == [0, 1, 2, 3]
    assert parameters_of(decoder.config, whole) == count(decoder.model)
    torch.testing.assert_close(student(BATCH["input_ids"]).logits, decoder.model(BATCH["input_ids"]).logits, rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_a_ratio_is_met_within_a_point_and_the_student_loads(model_type: str, ratio: float, tmp_path: Path) -> None:
    decoder, _, importance = teacher_of(model_type)
    shape, claimed = plan_decoder(decoder.config, ratio=ratio)
    student, _ = cut_decoder(decoder, shape, importance)
    assert count(student) == claimed
    assert 1 - claimed / count(decoder.model) == pytest.approx(ratio, abs=0.01)
    Decoder(student).check()
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(BATCH["input_ids"]).logits, student(BATCH["input_ids"]).logits, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", TYPES)
def test_cut_neurons_and_groups_are_as_if_masked(model_type: str) -> None:
    decoder, whole, importance = teacher_of(model_type)
    # OLMo 2's norms of queries and keys reach over all heads, so that a cut group changes the others.
    shape = replace(whole, neurons=60) if model_type == "olmo2" else replace(whole, neurons=60, groups=3, heads=6)
    student, _ = cut_decoder(decoder, shape, importance)
    masked = copy.deepcopy(decoder.model)
    for number, layer in enumerate(masked.model.layers):
        gone = importance.neurons[number].argsort()[: whole.neurons - shape.neurons]
        layer.mlp.down_proj.weight.data[:, gone] = 0
        for group in importance.groups[number].argsort()[: whole.groups - shape.groups]:
            size = whole.head_width * whole.heads // whole.groups
            layer.self_attn.o_proj.weight.data[:, group * size : (group + 1) * size] = 0
    torch.testing.assert_close(student(BATCH["input_ids"]).logits, masked(BATCH["input_ids"]).logits, rtol=1e-5, atol=1e-5)


def test_a_layer_that_does_nothing_goes_first() -> None:
    decoder, whole, _ = teacher_of("llama")
    idle = decoder.model.model.layers[2]
    idle.self_attn.o_proj.weight.data.zero_()
    idle.mlp.down_proj.weight.data.zero_()
    student, kept = cut_decoder(decoder, replace(whole, layers=3), measure_importance(decoder, [BATCH]))
    assert kept == [0, 1, 3]
    torch.testing.assert_close(student(BATCH["input_ids"]).logits, decoder.model(BATCH["input_ids"]).logits, rtol=1e-5, atol=1e-5)


def test_padding_has_no_say_in_importance() -> None:
    decoder, _, importance = teacher_of("llama")
    padded = {name: torch.cat([value, torch.full_like(value[:, :5], 1)], 1) for name, value in BATCH.items()}
    padded["sample_ids"][:, 30:] = -1
    found = measure_importance(decoder, [padded])
    torch.testing.assert_close(found.neurons, importance.neurons)
    torch.testing.assert_close(found.layers, importance.layers, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ModelError, match=r"phi3"):
        plan_decoder(tiny_decoder("phi3").config, ratio=0.5)
    with pytest.raises(RecipeError, match=r"within a point"):
        plan_decoder(tiny_decoder("llama", vocab_size=50_000).config, params=10)


def test_a_run_without_a_named_student_cuts_one(tmp_path: Path) -> None:
    metrics = DistillationPipeline(
        str(save_decoder(tmp_path / "teacher", **SIZES)),
        str(write_chats(tmp_path / "chats.jsonl")),
        {"student": {"ratio": 0.5}, "distill": {"epochs": 1, "batch_size": 8}},
        output_dir=tmp_path / "out",
    ).run()
    assert metrics.ratio is not None
    assert metrics.ratio.achieved == pytest.approx(0.5, abs=0.01)
    plan = metrics.plan
    assert plan is not None
    assert plan.student["num_hidden_layers"] == len(plan.layers_kept)
    assert "key-value heads" in plan.notes[0]
