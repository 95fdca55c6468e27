"""BERT."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from potstill.models.families.text import TextEncoder


class Bert(TextEncoder):
    """BERT, whose pooler belongs to the base model."""

    model_type = "bert"
    architecture = "BertForSequenceClassification"
    pooler_paths: tuple[str, ...] = ("bert.pooler.dense",)
    roles: Mapping[str, str] = MappingProxyType(
        {
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "attention_output": "attention.output.dense",
            "attention_norm": "attention.output.LayerNorm",
            "up": "intermediate.dense",
            "down": "output.dense",
            "output_norm": "output.LayerNorm",
        }
    )
