"""The configuration of encoders with coded embeddings."""

from __future__ import annotations

from transformers import PreTrainedConfig


class CodedEncoderConfig(PreTrainedConfig):
    """An encoder with ELECTRA's layers, product-coded token embeddings, low-rank positions and attention of any width.

    Args:
        vocab_size: Tokens.
        hidden_size: Width of the residual stream; `embedding_size` is the same.
        num_hidden_layers: Layers.
        num_attention_heads: Heads of each layer.
        head_dim: Units per head; `num_attention_heads` × `head_dim` may be less than `hidden_size`.
        intermediate_size: Neurons of each layer's FFN.
        code_groups: Pieces that a token's vector is put together from; divides `hidden_size`.
        codes_per_group: Different pieces of each group.
        position_rank: Rank of the table of positions.
        max_position_embeddings: Most tokens of a text.
        type_vocab_size: Kinds of token types.
    """

    model_type = "potstill-encoder"

    vocab_size: int = 30522
    embedding_size: int = 384
    hidden_size: int = 384
    num_hidden_layers: int = 3
    num_attention_heads: int = 6
    head_dim: int = 32
    intermediate_size: int = 256
    code_groups: int = 16
    codes_per_group: int = 1024
    position_rank: int = 32
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    classifier_dropout: float | int | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    use_cache: bool = False
