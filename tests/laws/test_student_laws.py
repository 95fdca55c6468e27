"""Laws of the student room: costs are true, plans land, cuts change nothing that they need not."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from potstill.student.cost import bytes_of, flops, parameters
from potstill.student.families import FAMILIES
from potstill.student.plan import plan
from student.builders import ALL_TYPES, tiny_batches, tiny_config, tiny_model

BIG = {
    "bert": {},
    "roberta": {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1},
    "xlm-roberta": {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1},
    "distilbert": {},
    "electra": {},
    "vit": {},
    "deit": {},
    "resnet": {},
}


def meta_model(config):
    """The classification model of `config` without weights."""
    with torch.device("meta"):
        return getattr(transformers, FAMILIES[config.model_type].architecture)(config)


def inputs_of(batch):
    return {name: value for name, value in batch.items() if name not in ("labels", "row_id")}


@pytest.mark.parametrize("model_type", ALL_TYPES)
def test_counted_parameters_are_the_parameters_of_the_built_model(model_type):
    for config in (tiny_config(model_type), transformers.AutoConfig.for_model(model_type, **BIG[model_type])):
        built = sum(p.numel() for p in meta_model(config).parameters())
        assert parameters(config) == built
        assert bytes_of(config) == 4 * built


@pytest.mark.parametrize("model_type", [*ALL_TYPES, "resnet-basic"])
def test_flops_equal_those_that_torch_counts(model_type):
    changes = {}
    if model_type == "resnet-basic":
        model_type, changes = "resnet", {"layer_type": "basic", "downsample_in_first_stage": True}
    model = tiny_model(model_type, **changes)
    model.set_attn_implementation("eager")
    batch = {name: value[:1] for name, value in inputs_of(tiny_batches(model_type, 1)[0]).items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**batch)
    assert flops(model.config, tokens=10, image_size=32) == pytest.approx(counter.get_total_flops(), rel=0.01)


PLANNED = {
    "bert-base": transformers.BertConfig(num_labels=2),
    "minilm": transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=2
    ),
    "xlm-roberta-base": transformers.XLMRobertaConfig(vocab_size=250002, max_position_embeddings=514, type_vocab_size=1),
    "distilbert": transformers.DistilBertConfig(),
    "electra-small": transformers.ElectraConfig(num_hidden_layers=12),
    "vit-base": transformers.ViTConfig(num_labels=10),
    "resnet-50": transformers.ResNetConfig(num_labels=10),
}


@pytest.mark.parametrize("name", PLANNED)
@pytest.mark.parametrize("counted", [False, True])
def test_a_plan_lands_within_one_point_of_every_ratio(name, counted):
    config = PLANNED[name]
    if counted and not hasattr(config, "vocab_size"):
        pytest.skip("an image model has no vocabulary")
    counts = {token: 40_000 // (token + 1) + 1 for token in range(9000)} if counted else None
    before = config.to_dict()
    for percent in range(10, 96):
        planned = plan(config, ratio=percent / 100, token_counts=counts)
        assert abs(planned.ratio - percent / 100) <= 0.01, (percent, planned)
        assert planned.parameters <= planned.teacher_parameters * (1 - percent / 100 + 0.006)
    assert config.to_dict() == before


@pytest.mark.parametrize("name", PLANNED)
@pytest.mark.parametrize("ratio", [0.0, 0.13, 0.5, 0.9, 0.95])
def test_planned_parameters_are_the_parameters_of_the_built_student(name, ratio):
    planned = plan(PLANNED[name], ratio=ratio)
    built = sum(p.numel() for p in meta_model(planned.build_config()).parameters())
    assert planned.parameters == built
    assert planned.ratio == 1 - built / planned.teacher_parameters
