"""The configuration of encoders with coded embeddings."""

from __future__ import annotations

from transformers import ElectraConfig


class CodedEncoderConfig(ElectraConfig):
    """An ELECTRA-like encoder with product-coded token embeddings, low-rank positions and attention of any width.

    Args:
        code_groups: Pieces that a token's vector is put together from; divides `hidden_size`.
        codes_per_group: Different pieces of each group.
        position_rank: Rank of the table of positions.
        head_dim: Units per attention head; `num_attention_heads` × `head_dim` may be less than `hidden_size`.
    """

    model_type = "potstill-encoder"

    code_groups: int = 16
    codes_per_group: int = 1024
    position_rank: int = 32
    head_dim: int = 64
