"""DistilBERT: BERT's blocks under other names, without token types."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from potstill.models.families.text import TextEncoder


class DistilBert(TextEncoder):
    """DistilBERT."""

    model_type = "distilbert"
    architecture = "DistilBertForSequenceClassification"
    blocks_path = "transformer.layer"
    pooler_paths = ("pre_classifier",)
    roles: Mapping[str, str] = MappingProxyType(
        {
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attention_output": "attention.out_lin",
            "attention_norm": "sa_layer_norm",
            "up": "ffn.lin1",
            "down": "ffn.lin2",
            "output_norm": "output_layer_norm",
        }
    )
    config_keys: Mapping[str, str] = MappingProxyType(
        {"hidden": "dim", "ffn": "hidden_dim", "layers": "n_layers", "heads": "n_heads"}
    )
    shared_keys: Mapping[str, str] = MappingProxyType(
        {
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        }
    )
