"""GPT-NeoX and Pythia: the query, key and value of each head lie next to each other in one weight."""

from __future__ import annotations

from types import MappingProxyType

from potstill.models.families.decoders.base import DecoderFamily


class GptNeoX(DecoderFamily):
    """GPT-NeoX, Pythia."""

    blocks, final_norm, embedding = "gpt_neox.layers", "gpt_neox.final_layer_norm", "gpt_neox.embed_in"
    is_square = True
    outer = MappingProxyType(
        {
            "gpt_neox.embed_in": ("vocabulary", "hidden"),
            "gpt_neox.final_layer_norm": ("hidden",),
            "lm_head": ("vocabulary", "hidden"),
        }
    )
    parts = MappingProxyType(
        {
            "input_layernorm": ("hidden",),
            "attention.query_key_value": ("head_by_head", "hidden"),
            "attention.dense": ("hidden", "query"),
            "post_attention_layernorm": ("hidden",),
            "mlp.dense_h_to_4h": ("ffn", "hidden"),
            "mlp.dense_4h_to_h": ("hidden", "ffn"),
        }
    )
