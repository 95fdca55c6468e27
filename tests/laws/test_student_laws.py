"""Laws of the student room: costs are true, plans land, cuts change nothing that they need not."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from potstill.models.families import family_of
from potstill.models.size import flops, parameters, parameters_of
from potstill.students.cut import cut_student
from potstill.students.importance import measure
from potstill.students.plan import plan
from students.builders import ALL_TYPES, CONVOLUTIONAL, DEBERTA_V3, model_class, tiny_batches, tiny_config, tiny_model

BIG = {
    "bert": {},
    "roberta": {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1},
    "xlm-roberta": {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1},
    "distilbert": {},
    "electra": {},
    "deberta-v2": {
        **DEBERTA_V3,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "potstill-encoder": {"hidden_size": 384, "embedding_size": 384, "num_attention_heads": 3, "head_dim": 32},
    "vit": {},
    "deit": {},
    "resnet": {},
    "convnext": {},
    "mobilenet_v2": {},
}


def meta_model(config):
    """The classification model of `config` without weights."""
    with torch.device("meta"):
        return model_class(config.model_type)(config)


def size_of(model):
    """Parameters, and the integers of a coded embedding."""
    codes = [buffer for name, buffer in model.named_buffers() if name.endswith("word_embeddings.codes")]
    return sum(tensor.numel() for tensor in [*model.parameters(), *codes])


def inputs_of(batch):
    return {name: value for name, value in batch.items() if name not in ("labels", "row_id")}


@pytest.mark.parametrize("model_type", ALL_TYPES)
def test_counted_parameters_are_the_parameters_of_the_built_model(model_type):
    for config in (tiny_config(model_type), transformers.AutoConfig.for_model(model_type, **BIG[model_type])):
        built = size_of(meta_model(config))
        assert parameters(config) == built == parameters_of(meta_model(config))


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
    "deberta-v3-base": transformers.DebertaV2Config(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, num_labels=2, **DEBERTA_V3
    ),
    "electra-small": transformers.ElectraConfig(num_hidden_layers=12),
    "vit-base": transformers.ViTConfig(num_labels=10),
    "resnet-50": transformers.ResNetConfig(num_labels=10),
    "convnext-tiny": transformers.ConvNextConfig(num_labels=10),
    "mobilenet-v2": transformers.MobileNetV2Config(num_labels=10),
    "mobilenet-v2-narrow": transformers.MobileNetV2Config(num_labels=10, depth_multiplier=0.5, output_stride=16),
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
    built = size_of(meta_model(planned.build_config()))
    assert planned.parameters == built
    assert planned.ratio == 1 - built / planned.teacher_parameters


def logits_of(model, batch):
    with torch.no_grad():
        return model(**inputs_of(batch)).logits


def shrunk_plan(model, **changes):
    """A plan of the model's own type with some configuration keys changed."""
    whole = plan(model, ratio=0)
    values = dict(whole.config) | changes
    layers = whole.layers[: values.get("num_hidden_layers", values.get("n_layers", len(whole.layers)))]
    return dataclasses.replace(whole, config=values, layers=layers)


@pytest.mark.parametrize("model_type", ALL_TYPES)
def test_ratio_zero_is_the_teacher(model_type):
    teacher = tiny_model(model_type)
    batch = tiny_batches(model_type, 1)[0]
    student = cut_student(teacher, plan(teacher, ratio=0))
    assert type(student) is type(teacher)
    assert torch.equal(logits_of(student, batch), logits_of(teacher, batch))


@pytest.mark.parametrize("model_type", ALL_TYPES)
def test_cutting_leaves_the_teacher_as_it_was_and_draws_the_same_twice(model_type):
    teacher = tiny_model(model_type).train()
    before = copy.deepcopy(teacher.state_dict())
    planned = plan(teacher, ratio=0.4)
    students = [cut_student(teacher, planned, tiny_batches(model_type)) for _ in range(2)]
    assert teacher.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert size_of(students[0]) == planned.parameters
    for first, second in zip(students[0].state_dict().values(), students[1].state_dict().values()):
        assert torch.equal(first, second)
        assert torch.isfinite(first.float()).all()


@pytest.mark.parametrize("model_type", [name for name in ALL_TYPES if name not in CONVOLUTIONAL])
def test_a_masked_model_equals_the_cut_model(model_type):
    """Neurons whose output weights are zero add nothing, so cutting them, and fitting what stays, changes no logit."""
    teacher = tiny_model(model_type)
    family = family_of(model_type)
    for k in (1, 2, 3):
        family.part(teacher, k, "down").weight.data[:, 10:30] = 0
    batches = tiny_batches(model_type)
    planned = shrunk_plan(teacher, **{family.config_keys["ffn"]: 44})
    student = cut_student(teacher, planned, batches)
    torch.testing.assert_close(logits_of(student, batches[0]), logits_of(teacher, batches[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["vit", "deit"])
def test_a_model_with_masked_heads_equals_the_model_without_them(model_type):
    teacher = tiny_model(model_type)
    for k in (1, 2, 3):
        family_of(model_type).part(teacher, k, "attention_output").weight.data[:, 8:16] = 0
    batches = tiny_batches(model_type)
    student = cut_student(teacher, shrunk_plan(teacher, num_attention_heads=3, head_dim=8), batches)
    torch.testing.assert_close(logits_of(student, batches[0]), logits_of(teacher, batches[0]), atol=1e-4, rtol=1e-4)


def test_channels_that_are_masked_in_a_resnet_may_be_cut():
    teacher = tiny_model("resnet", hidden_sizes=[64, 128])
    batches = tiny_batches("resnet")
    for stage in teacher.resnet.encoder.stages:
        for block in stage.layers:
            norms = [layer.normalization for layer in block.layer] + [getattr(block.shortcut, "normalization", None)]
            for norm in filter(None, norms):
                half = norm.num_features // 2
                norm.weight.data[half:] = 0
                norm.bias.data[half:] = 0
    student = transformers.ResNetForImageClassification(shrunk_plan(teacher, hidden_sizes=[32, 64]).build_config()).eval()
    family_of("resnet").copy_channels(teacher, student, measure(teacher, batches).channels)
    torch.testing.assert_close(logits_of(student, batches[0]), logits_of(teacher, batches[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", ALL_TYPES)
def test_importance_does_not_depend_on_the_split_into_batches(model_type):
    model = tiny_model(model_type)
    whole = tiny_batches(model_type)
    pieces = [{name: value[i : i + 4] for name, value in batch.items()} for batch in whole for i in (0, 4)]
    first, second = measure(model, whole), measure(model, list(reversed(pieces)))
    for name in ("heads", "neurons", "hidden", "layers"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-4)
    for name, score in first.channels.items():
        np.testing.assert_allclose(score, second.channels[name], rtol=1e-4)
    assert first.rows == second.rows == 24


@pytest.mark.parametrize("model_type", ALL_TYPES)
@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_a_saved_student_loads_with_plain_transformers(model_type, ratio, tmp_path):
    teacher = tiny_model(model_type)
    student = cut_student(teacher, plan(teacher, ratio=ratio), tiny_batches(model_type))
    student.save_pretrained(tmp_path)
    modality = "ImageClassification" if "pixel_values" in tiny_batches(model_type, 1)[0] else "SequenceClassification"
    loaded = getattr(transformers, f"AutoModelFor{modality}").from_pretrained(tmp_path)
    batch = tiny_batches(model_type, 1)[0]
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in student.state_dict().items())
    torch.testing.assert_close(logits_of(loaded.eval(), batch), logits_of(student, batch), atol=1e-5, rtol=1e-4)  # rounding
