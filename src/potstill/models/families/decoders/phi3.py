"""Phi-3: queries, keys and values in one weight, gate and input of the FFN in another."""

from __future__ import annotations

from types import MappingProxyType

from potstill.models.families.decoders.llama import Llama


class Phi3(Llama):
    """Phi-3, 3.5 and 4 (text)."""

    parts = MappingProxyType(
        {
            "input_layernorm": ("hidden",),
            "self_attn.qkv_proj": ("query_key_value", "hidden"),
            "self_attn.o_proj": ("hidden", "query"),
            "post_attention_layernorm": ("hidden",),
            "mlp.gate_up_proj": ("gate_up", "hidden"),
            "mlp.down_proj": ("hidden", "ffn"),
        }
    )
