"""Text classification: model head, tokenizer limit, example inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from potstill import tasks
from potstill.errors import ModelError
from potstill.modalities.text.texts import position_limit

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
CONFIGS = {
    "bert": BertConfig(**SMALL, max_position_embeddings=40),
    "roberta": RobertaConfig(**SMALL, max_position_embeddings=40, pad_token_id=1, type_vocab_size=1),
    "distilbert": DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, vocab_size=30, max_position_embeddings=40),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    AutoModelForSequenceClassification.from_config(CONFIGS["bert"]).save_pretrained(tmp_path)
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("family", CONFIGS)
def test_example_inputs_fit_the_model(family: str) -> None:
    task = tasks.build("text-classification")
    model = AutoModelForSequenceClassification.from_config(CONFIGS[family]).eval()
    inputs = task.example_inputs(model, batch=3)
    assert inputs["input_ids"].shape[1] == position_limit(model.config)
    assert torch.isfinite(model(**inputs).logits).all()
    assert task.dynamic_axes(model).keys() == inputs.keys()
    assert ("token_type_ids" in inputs) == (family == "bert")
    assert task.example_inputs(model, tokens=7)["input_ids"].shape == (1, 7)


def test_roberta_takes_fewer_tokens_than_positions() -> None:
    assert position_limit(CONFIGS["roberta"]) == 38


def test_models_get_a_head_of_the_size_asked_for(folder: Path) -> None:
    model = tasks.build("text-classification").load_model(str(folder), num_labels=3, label_names=["a", "b", "c"])
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.classifier.out_features == 3


def test_the_tokenizer_stops_at_the_models_positions(folder: Path) -> None:
    task = tasks.build("text-classification")
    assert task.load_processor(str(folder), model_config=CONFIGS["roberta"]).model_max_length == 38


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    task = tasks.build("text-classification")
    with pytest.raises(ModelError, match="does not give a model for text classification"):
        task.load_model(str(tmp_path), num_labels=2, label_names=["a", "b"])
    with pytest.raises(ModelError, match="does not give a tokenizer"):
        task.load_processor(str(tmp_path))
    with pytest.raises(ModelError, match="2 labels were asked for, and 1 name given"):
        task.load_model(str(tmp_path), num_labels=2, label_names=["a"])
