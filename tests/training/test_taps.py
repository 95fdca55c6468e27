"""Taps read what they say, from every family, and leave nothing behind."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from small_models import Rows, collate, encoder
from torch import nn
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from potstill.errors import NeedsError
from potstill.models.taps import TapReader, Taps, available, can_give

TEXT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def inputs():
    batch = collate(Rows(4).rows)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def text_models():
    return {
        "bert": encoder(layers=3),
        "electra": ElectraForSequenceClassification(ElectraConfig(**TEXT, embedding_size=8)),
        "roberta": RobertaForSequenceClassification(RobertaConfig(**TEXT, pad_token_id=0)),
        "distilbert": DistilBertForSequenceClassification(
            DistilBertConfig(vocab_size=50, dim=16, hidden_dim=32, n_layers=3, n_heads=2)
        ),
    }


@pytest.mark.parametrize("name", sorted(text_models()))
def test_mean_states_are_those_of_the_real_tokens(name):
    model, given = text_models()[name].eval(), inputs()
    _, values = Taps(model, ["mean:1", "mean:-1", "hidden:1", "hidden:-1"]).run(given)
    assert not given["attention_mask"].bool().all()
    for need in ("1", "-1"):
        rows = [state[mask.bool()].mean(0) for state, mask in zip(values[f"hidden:{need}"], given["attention_mask"])]
        torch.testing.assert_close(values[f"mean:{need}"], torch.stack(rows))
    longer = {key: nn.functional.pad(value, (0, 5)) for key, value in given.items()}
    torch.testing.assert_close(Taps(model, ["mean:-1"]).run(longer)[1]["mean:-1"], values["mean:-1"], rtol=1e-4, atol=1e-5)


def test_mean_states_of_images_run_over_all_positions():
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=2)
    _, values = Taps(ResNetForImageClassification(config).eval(), ["mean:2", "hidden:2"]).run(
        {"pixel_values": torch.rand(2, 3, 32, 32)}
    )
    torch.testing.assert_close(values["mean:2"], values["hidden:2"].mean((2, 3)))
    vit = ViTForImageClassification(
        ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8)
    ).eval()
    _, values = Taps(vit, ["mean:2", "hidden:2"]).run({"pixel_values": torch.rand(2, 3, 16, 16)})
    torch.testing.assert_close(values["mean:2"], values["hidden:2"].mean(1))


@pytest.mark.parametrize("name", sorted(text_models()))
def test_hidden_states_equal_those_of_the_model(name):
    model = text_models()[name].eval()
    needs = ["embedding", "hidden:0", "hidden:1", "hidden:3", "hidden:-1", "hidden:-2", "head.in"]
    logits, values = Taps(model, needs).run(inputs())
    states = model(**inputs(), output_hidden_states=True).hidden_states
    assert torch.equal(values["embedding"], states[0])
    assert torch.equal(values["hidden:0"], states[0])
    assert torch.equal(values["hidden:1"], states[1])
    assert torch.equal(values["hidden:3"], states[3])
    assert torch.equal(values["hidden:-1"], states[3])
    assert torch.equal(values["hidden:-2"], states[2])
    assert values["head.in"].dim() == 2
    assert torch.equal(logits, model(**inputs()).logits)


@pytest.mark.parametrize("name", sorted(text_models()))
def test_attention_equals_that_of_the_eager_model_before_the_mask(name):
    model = text_models()[name].eval()
    _, values = Taps(model, ["attention:2", "query:2", "key:2", "value:2"]).run(inputs())
    mask = inputs()["attention_mask"][:, None, None, :]
    ours = values["attention:2"].masked_fill(mask == 0, torch.finfo(torch.float32).min).softmax(-1)
    model.set_attn_implementation("eager")
    theirs = model(**inputs(), output_attentions=True).attentions[1]
    assert torch.allclose(ours, theirs, atol=1e-5)
    scores = values["query:2"] @ values["key:2"].transpose(-1, -2) / math.sqrt(8)
    assert torch.allclose(values["attention:2"], scores)
    assert values["value:2"].shape == values["query:2"].shape


def test_images_by_block_and_by_stage():
    pixels = {"pixel_values": torch.randn(2, 3, 16, 16)}
    vit = ViTForImageClassification(
        ViTConfig(image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ).eval()
    _, values = Taps(vit, ["hidden:0", "hidden:1", "hidden:2", "attention:-1"]).run(pixels)
    states = vit(**pixels, output_hidden_states=True).hidden_states
    assert all(torch.equal(values[f"hidden:{k}"], states[k]) for k in range(3))
    assert values["attention:-1"].shape == (2, 2, 5, 5)
    resnet = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    ).eval()
    _, values = Taps(resnet, ["hidden:1", "hidden:2", "head.in"]).run(pixels)
    states = resnet(**pixels, output_hidden_states=True).hidden_states
    assert torch.equal(values["hidden:2"], states[2])
    assert values["head.in"].shape == (2, 16)
    assert not can_give(resnet, "attention:1")


def test_model_of_no_family_gives_hidden_states_and_modules():
    config = SqueezeBertConfig(**TEXT, embedding_size=16, q_groups=1, k_groups=1, v_groups=1)
    model = SqueezeBertForSequenceClassification(config).eval()
    _, values = Taps(model, ["hidden:-1", "module:*.layers.0.output"]).run(inputs())
    states = model(**inputs(), output_hidden_states=True).hidden_states
    assert torch.equal(values["hidden:-1"], states[-1])
    assert [name for name in values if name.startswith("module:")] == ["module:transformer.encoder.layers.0.output"]


def test_nothing_stays_behind():
    model = encoder()
    taps = Taps(model, ["hidden:1", "attention:2", "head.in"])
    logits, values = taps.run(inputs())
    held = weakref.ref(values["hidden:1"])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    del logits, values
    gc.collect()
    assert held() is None
    with pytest.raises(ValueError):
        taps.run({"nonsense": 1})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_two_taps_on_one_model_do_not_meet():
    model = encoder().eval()
    one, two = Taps(model, ["hidden:1"]), Taps(model, ["hidden:2"])
    assert list(one.run(inputs())[1]) == ["hidden:1"]
    assert list(two.run(inputs())[1]) == ["hidden:2"]


def test_gradient_checkpointing_changes_no_gradient():
    def gradients(*, is_checkpointed):
        model = encoder(seed=4).train()
        if is_checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        _, values = Taps(model, ["hidden:1", "attention:2"]).run(inputs())
        (values["hidden:1"].pow(2).mean() + values["attention:2"].pow(2).mean()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(is_checkpointed=False), gradients(is_checkpointed=True)
    assert plain.keys() == checkpointed.keys()
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-7) for name in plain)


def test_reader_serves_any_model():
    reader = TapReader()
    values = reader.read(encoder().eval(), inputs(), ["logits", "hidden:1"])
    assert set(values) == {"logits", "hidden:1"}


@pytest.mark.parametrize(
    ("need", "words"),
    [
        ("hidden:9", "has 2 blocks.*use 'hidden:2'"),
        ("attention:0", "attention:1 to attention:2"),
        ("atention:1", "does not give 'atention:1'.*did you mean 'attention:"),
        ("hidden:last", "has no number of a block"),
        ("module:bert.encodr", "names no module.*did you mean 'module:bert.encoder'"),
    ],
)
def test_unknown_need_names_what_exists_and_the_nearest(need, words):
    with pytest.raises(NeedsError, match=words):
        Taps(encoder(), [need])


def test_plain_module_has_a_head_and_modules_only():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    assert available(model) == ["logits", "module:PATH", "head.in", "pooled"]
    with pytest.raises(NeedsError, match="does not give 'hidden:1'"):
        Taps(model, ["hidden:1"])
    _, values = Taps(model, ["head.in", "module:1"]).run({"input": torch.ones(2, 4)})
    assert torch.equal(values["head.in"], values["module:1"])


@pytest.mark.parametrize("needs", [["hidden:1"], ["embedding", "mean:2"], ["attention:1"], ["query:2", "hidden:1"]])
def test_reach_gives_the_same_values_and_leaves_the_rest_of_the_forward_out(needs):
    model, came_by = encoder(layers=4).eval(), []
    for number, block in enumerate(model.bert.encoder.layer, 1):
        block.register_forward_hook(lambda *_, number=number: came_by.append(number))
    taps = Taps(model, needs)
    assert not taps.can_stop  # a whole forward has not been seen yet
    _, expected = taps.run(inputs())
    assert came_by == [1, 2, 3, 4]
    came_by.clear()
    assert taps.can_stop
    found = taps.reach(inputs())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[need], expected[need]) for need in needs)
    assert came_by in ([], [1], [1, 2])
    assert all(len(block._forward_hooks) == 1 for block in model.bert.encoder.layer)
    logits, values = taps.run(inputs())  # and a whole one comes back
    assert logits.shape == (4, 3)
    assert all(torch.equal(values[need], expected[need]) for need in needs)


def test_a_module_that_runs_twice_is_not_left_after_its_first_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
            self.tap_stages = ("block",)

        def forward(self, x):
            return self.head(self.block(torch.tanh(self.block(x))))

    taps = Taps(Twice(), ["hidden:1"])
    given = {"x": torch.ones(3, 4)}
    _, expected = taps.run(given)
    assert not taps.can_stop
    assert torch.equal(taps.reach(given)["hidden:1"], expected["hidden:1"])


def resnet() -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    return ResNetForImageClassification(config)


def moved(container, change):
    """What a module takes or gives, its first tensor changed."""
    return change(container) if isinstance(container, torch.Tensor) else (change(container[0]), *container[1:])


@pytest.mark.parametrize(
    ("model", "need", "inputs"),
    [
        (
            encoder(),
            "embedding",
            {"input_ids": torch.randint(1, 50, (3, 6)), "attention_mask": torch.ones(3, 6, dtype=torch.long)},
        ),
        (encoder(), "hidden:1", {"input_ids": torch.randint(1, 50, (3, 6))}),
        (encoder(), "head.in", {"input_ids": torch.randint(1, 50, (3, 6))}),
        (resnet(), "input", {"pixel_values": torch.randn(2, 3, 32, 32)}),
        (resnet(), "hidden:2", {"pixel_values": torch.randn(2, 3, 32, 32)}),
    ],
)
def test_the_gradient_of_the_largest_logit_by_a_value(model, need, inputs):
    model = model.eval().requires_grad_(False)
    with torch.no_grad():
        found = TapReader().read(model, inputs, ["logits", f"gradient:{need}", need])
    assert not any(value.requires_grad for value in found.values())
    with torch.no_grad():
        plain = TapReader().read(model, inputs, ["logits", need])
    torch.testing.assert_close(found["logits"], plain["logits"])
    torch.testing.assert_close(found[need], plain[need])
    gradient = found[f"gradient:{need}"]
    step = 1e-2 * torch.randn_like(gradient)
    classes = plain["logits"].argmax(-1, keepdim=True)

    def largest(sign):
        """The chosen logits, once the value is moved."""
        reader, given = Taps(model, [need]), dict(inputs)
        slot, handles = reader._places[need], []

        def change(value):
            return value + sign * step

        if slot == "input":
            given["pixel_values"] = change(given["pixel_values"])
        elif reader._slots[slot][1]:
            handles.append(reader._slots[slot][0].register_forward_pre_hook(lambda _, taken: moved(taken, change)))
        else:
            handles.append(reader._slots[slot][0].register_forward_hook(lambda _, __, out: moved(out, change)))
        with torch.no_grad():
            logits = model(**given).logits
        for handle in handles:
            handle.remove()
        return float(logits.gather(-1, classes).sum())

    assert float((gradient * step).sum()) == pytest.approx((largest(1) - largest(-1)) / 2, rel=0.05, abs=1e-5)


def test_gradients_that_no_module_tells_are_refused():
    with pytest.raises(NeedsError, match="has no one module that gives 'attention:1'"):
        Taps(encoder(), ["gradient:attention:1"])
    assert not can_give(encoder(), "gradient:input"), "token ids have no gradient"
