"""Llama and the decoders that are built like it: Mistral, Qwen, SmolLM, OLMo, Granite, Cohere."""

from __future__ import annotations

from types import MappingProxyType

from potstill.models.families.decoders.base import DecoderFamily


class Llama(DecoderFamily):
    """Norms, attention of four projections and a gated FFN; norms of single heads where there are some."""

    outer = MappingProxyType(
        {"model.embed_tokens": ("vocabulary", "hidden"), "model.norm": ("hidden",), "lm_head": ("vocabulary", "hidden")}
    )
    parts = MappingProxyType(
        {
            "input_layernorm": ("hidden",),
            "self_attn.q_proj": ("query", "hidden"),
            "self_attn.k_proj": ("key", "hidden"),
            "self_attn.v_proj": ("key", "hidden"),
            "self_attn.q_norm": ("heads", "whole"),  # of each head in Cohere, one for all in Qwen3
            "self_attn.k_norm": ("groups", "whole"),
            "self_attn.o_proj": ("hidden", "query"),
            "post_attention_layernorm": ("hidden",),
            "mlp.gate_proj": ("ffn", "hidden"),
            "mlp.up_proj": ("ffn", "hidden"),
            "mlp.down_proj": ("hidden", "ffn"),
        }
    )


class Olmo2(Llama):
    """Its queries and keys are normalised over all heads together, so that taking out some changes the others."""

    has_free_heads = False
    parts = MappingProxyType(
        Llama.parts | {"self_attn.q_norm": ("query",), "self_attn.k_norm": ("key",), "post_feedforward_layernorm": ("hidden",)}
    )
