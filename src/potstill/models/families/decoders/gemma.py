"""Gemma 1 to 3 (text): norms before and after each part, weights of norms counted from one, embeddings scaled by the width."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from potstill.models.families.decoders.llama import Llama


class Gemma(Llama):
    """All sizes of them."""

    norm_offset = 1.0
    parts = MappingProxyType(Llama.parts | {"pre_feedforward_layernorm": ("hidden",), "post_feedforward_layernorm": ("hidden",)})

    def embedding_scale(self, config: Any) -> float:
        """The square root of the width."""
        return float(config.hidden_size) ** 0.5
