"""A tiny model that has learned whether a word is in a row, its rows, and how right a runner is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import ElectraConfig, ElectraForSequenceClassification

from potstill.exports.onnx import export_onnx

VOCABULARY, WORD = 400, 7


def sentences(num_rows, tokens, seed):
    """Rows whose label says whether the word 7 is in them."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(10, VOCABULARY, (num_rows, tokens))
    labels = generator.integers(0, 2, num_rows)
    ids[labels == 1, generator.integers(0, tokens, num_rows)[labels == 1]] = WORD
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}, labels


def train(path: Path) -> ElectraForSequenceClassification:
    """Train it and export it to `path`."""
    torch.manual_seed(0)
    config = ElectraConfig(
        vocab_size=VOCABULARY,
        embedding_size=32,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=2,
    )
    model = ElectraForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(80):
        inputs, labels = sentences(64, 12, seed=step)
        tensors = {name: torch.tensor(value) for name, value in inputs.items()}
        model(**tensors, labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    examples = {name: torch.tensor(value) for name, value in sentences(2, 9, 0)[0].items()}
    export_onnx(model, path, example_inputs=examples, dynamic_axes={name: {0: "batch", 1: "tokens"} for name in examples})
    return model


def accuracy(runner):
    inputs, labels = sentences(200, 12, seed=999)
    return float((runner.run(inputs)["logits"].argmax(-1) == labels).mean())


def calibration():
    return [sentences(4, tokens, seed=tokens)[0] for tokens in (6, 9, 12)]
