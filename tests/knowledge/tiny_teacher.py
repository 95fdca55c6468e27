"""Tiny teachers and rows, made on the spot."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

NUM_CLASSES = 3


class Rows:
    """Rows of random tokens with lengths from 3 to 12 and ids that are neither dense nor sorted."""

    def __init__(self, num_rows: int = 50, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.row_ids = random.permutation(10 * num_rows)[:num_rows].astype(np.int64)
        self.lengths = random.integers(3, 13, num_rows)
        self.tokens = [random.integers(5, 60, length) for length in self.lengths]
        self.fingerprint = hashlib.blake2b(b"".join(part.tobytes() for part in self.tokens), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.row_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"row_id": int(self.row_ids[index]), "labels": index % NUM_CLASSES, "input_ids": self.tokens[index]}


def collate(rows: list[dict[str, Any]]) -> Mapping[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row["input_ids"])] = torch.as_tensor(row["input_ids"])
        mask[index, : len(row["input_ids"])] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": torch.tensor([row["labels"] for row in rows]),
        "row_id": torch.tensor([row["row_id"] for row in rows]),
    }


def make_bert(seed: int = 0, **settings: Any) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        **({"num_labels": NUM_CLASSES} | settings),
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model
