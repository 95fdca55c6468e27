"""What a user reads when a teacher cannot be used: what was given, what is accepted, what to do."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    ViTConfig,
    ViTForImageClassification,
)

from potstill import tasks
from potstill.errors import ModelError
from potstill.models.labels import align_labels
from potstill.models.load import load_teacher

SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def broken_processor(name_or_path, *, model_config):
    raise OSError("Can't load tokenizer for it")


def text_task(load_processor):
    """Text classification with another way of loading the tokenizer."""
    task = tasks.build("text-classification")
    task.load_processor = load_processor
    return task


TASK = text_task(lambda name, *, model_config: "processor")


def bert(num_labels=3, **settings):
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=num_labels, **settings))


@pytest.fixture
def saved(tmp_path):
    bert().save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def message(source, task=TASK, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_teacher(source, task, **options)
    text = str(caught.value)
    assert "What to do: " in text
    assert "Accepted: " in text
    return text


def test_no_such_folder(tmp_path):
    assert f"the teacher {tmp_path / 'nowhere'} does not exist" in message(tmp_path / "nowhere")


def test_a_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is a file" in message(tmp_path / "model.safetensors")


def test_folder_without_a_config_says_what_it_holds(tmp_path):
    (tmp_path / "reviews.csv").write_text("")
    text = message(tmp_path)
    assert "has no config.json; it holds reviews.csv" in text
    assert "save_pretrained" in text


def test_adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "merge_and_unload" in message(tmp_path)


@pytest.mark.parametrize("config", ["{", "{}", '{"model_type": "no-such-model"}'])
def test_config_that_is_no_config(saved, config):
    (saved / "config.json").write_text(config)
    assert f"{saved} cannot be read as a model" in message(saved)


def test_hub_name_that_cannot_be_had_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = message("potstill-tests/no-such-model")
    assert "potstill-tests/no-such-model cannot be read as a model" in text
    assert "give its folder" in text


def test_own_code(saved):
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "mystery", "auto_map": {"AutoConfig": "mystery.MysteryConfig"}}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "mystery.py").write_text("raise RuntimeError('this code must not run')")
    text = message(saved)
    assert "brings its own code" in text
    assert "teacher.trust_remote_code: true" in text


def test_weights_missing(saved):
    (saved / "model.safetensors").unlink()
    assert "has a config.json but no weights" in message(saved)


def test_weights_only_pickled(saved):
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    text = message(saved)
    assert "pytorch_model.bin, a pickle" in text
    assert "convert it" in text


def test_weights_cut_short(saved):
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert f"the weights of {saved} cannot be read" in message(saved)


def test_weights_of_the_body_missing(saved):
    weights = load_file(saved / "model.safetensors")
    del weights["bert.encoder.layer.0.attention.self.query.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert "lacks weights of its own architecture: bert.encoder.layer.0.attention.self.query.weight" in message(saved)


def test_weights_of_another_shape(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    assert "have other shapes than its config.json says" in message(saved)


def test_weights_with_nan(saved):
    weights = load_file(saved / "model.safetensors")
    weights["classifier.bias"][1] = float("nan")
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert "NaN or infinite weights in classifier.bias" in message(saved)


def test_token_classifier(tmp_path):
    BertForTokenClassification(BertConfig(**SMALL)).save_pretrained(tmp_path)
    text = message(tmp_path)
    assert "BertForTokenClassification, which was trained for another task than text-classification" in text


def test_causal_language_model(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    assert "GPT2LMHeadModel, which was trained for another task" in message(tmp_path)


def test_image_model_for_texts(tmp_path):
    settings = {key: value for key, value in SMALL.items() if key != "vocab_size"}
    ViTForImageClassification(ViTConfig(**settings, image_size=8, patch_size=4)).save_pretrained(tmp_path)
    text = message(tmp_path)
    assert "is a vit model, which transformers does not offer for text-classification" in text
    assert "BERT" in text


def test_encoder_with_decoder(tmp_path):
    T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2).save_pretrained(tmp_path)
    assert "an encoder with a decoder" in message(tmp_path)


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_regression_and_many_labels_per_row(tmp_path, problem):
    bert(problem_type=problem).save_pretrained(tmp_path)
    assert f"was trained for {problem.replace('_', ' ')}" in message(tmp_path)


def test_other_number_of_classes(saved):
    assert f"{saved} has 3 classes and the data has 2" in message(saved, num_labels=2)
    text = message(saved, label_names=("negative", "positive"))
    assert "3 classes" in text
    assert "the data has 2" in text


def test_no_tokenizer(saved):
    assert f"{saved} has no usable tokenizer" in message(saved, text_task(broken_processor))


def test_other_labels_name_both_sides():
    config = SimpleNamespace(num_labels=3, id2label={0: "negative", 1: "neutral", 2: "positive"})
    with pytest.raises(ModelError) as caught:
        align_labels(config, ("negative", "mixed", "positive"))
    text = str(caught.value)
    assert "only the teacher has 'neutral'; only the data has 'mixed'" in text
    assert "What to do: rename the data's labels" in text


def test_many_labels_are_shortened():
    config = SimpleNamespace(num_labels=150, id2label={index: f"intent {index}" for index in range(150)})
    with pytest.raises(ModelError, match="and 138 more"):
        align_labels(config, [f"other {index}" for index in range(150)])


def test_a_folder_without_a_tokenizer_is_refused_and_not_read_as_unknown_words(saved):
    from potstill.tasks import build

    assert "has no tokenizer" in message(saved, build("text-classification"))
