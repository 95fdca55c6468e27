"""GPT-2: learned positions, weights stored [inputs, outputs], queries, keys and values in one of them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from potstill.models.families.decoders.base import DecoderFamily


class Gpt2(DecoderFamily):
    """GPT-2 and DistilGPT-2."""

    blocks, final_norm, embedding = "transformer.h", "transformer.ln_f", "transformer.wte"
    inputs_first = is_square = True
    keys = MappingProxyType({"hidden": "n_embd", "ffn": "n_inner", "layers": "n_layer", "heads": "n_head"})
    outer = MappingProxyType(
        {
            "transformer.wte": ("vocabulary", "hidden"),
            "transformer.wpe": ("whole", "hidden"),
            "transformer.ln_f": ("hidden",),
            "lm_head": ("vocabulary", "hidden"),
        }
    )
    parts = MappingProxyType(
        {
            "ln_1": ("hidden",),
            "attn.c_attn": ("query_key_value", "hidden"),
            "attn.c_proj": ("hidden", "query"),
            "ln_2": ("hidden",),
            "mlp.c_fc": ("ffn", "hidden"),
            "mlp.c_proj": ("hidden", "ffn"),
        }
    )

    def size(self, config: Any, name: str) -> int:
        """With the FFN four times as wide as the model where it is not named."""
        return int(getattr(config, self.keys[name]) or 4 * config.n_embd)

    def may_drop_layers(self, config: Any) -> bool:
        """Not where attention is scaled by the number of the block."""
        return not config.scale_attn_by_inverse_layer_idx
