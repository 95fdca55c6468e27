"""Encoders whose token embeddings are product codes: a few small tables instead of one wide row per token.

A token's embedding is put together from `code_groups` pieces; piece m is one of `codes_per_group` rows of group m's table, and
a table of small integers says which. So every token of the teacher keeps a vector of its own, and the student reads the
teacher's tokens, for a twentieth of the parameters.

Source: Jégou, Douze and Schmid 2011, "Product Quantization for Nearest Neighbor Search"; for embeddings of neural networks
Shu and Nakayama 2018, "Compressing Word Embeddings via Deep Compositional Code Learning" (arXiv:1711.01068).
"""

# B batch, T tokens, D width, M groups, K codes of a group, V vocabulary

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.electra.modeling_electra import (
    ElectraEncoder,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    ElectraModel,
    ElectraPreTrainedModel,
)

from .configuration import CodedEncoderConfig


class CodedEmbedding(nn.Module):
    """Embeddings [V, D] as M codes per token and M tables [K, D / M].

    Args:
        num_embeddings: Tokens, V.
        embedding_dim: Width, D.
        groups: Pieces of a vector, M; divides D.
        codes: Rows of each table, K.

    Raises:
        ValueError: `groups` does not divide `embedding_dim`.
    """

    codes: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int, groups: int, codes: int) -> None:
        super().__init__()
        if embedding_dim % groups:
            raise ValueError(
                f"embeddings of width {embedding_dim} are to be put together from {groups} pieces. "
                "Accepted: a number of pieces that divides the width. What to do: change code_groups in the configuration."
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.groups, self.codes_per_group = groups, codes
        self.tables = nn.Parameter(torch.zeros(groups * codes, embedding_dim // groups))
        self.register_buffer("codes", torch.zeros(num_embeddings, groups, dtype=code_type(groups, codes)))

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings [..., D] of token ids [...]."""
        return nn.functional.embedding(self.codes[ids].long(), self.tables).flatten(-2)

    @torch.no_grad()
    def fill(self, codes: Tensor, tables: Tensor) -> None:
        """Take codes [V, M], each from 0 to K − 1 within its group, and tables [M, K, D / M]."""
        first = torch.arange(self.groups) * self.codes_per_group
        self.codes.copy_((codes + first).to(self.codes.dtype))
        self.tables.copy_(tables.reshape(self.tables.shape))

    @property
    def weight(self) -> Tensor:
        """The whole table [V, D], put together."""
        return self(torch.arange(self.num_embeddings, device=self.tables.device))


def code_type(groups: int, codes: int) -> torch.dtype:
    """The smallest integer type that numbers the rows of all groups."""
    return torch.int16 if groups * codes <= torch.iinfo(torch.int16).max + 1 else torch.int32


class LowRankEmbedding(nn.Module):
    """Embeddings [V, D] as the product of factors [V, R] and [R, D]; used for positions, which vary smoothly."""

    def __init__(self, num_embeddings: int, embedding_dim: int, rank: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.rows = nn.Parameter(torch.zeros(num_embeddings, rank))
        self.basis = nn.Parameter(torch.zeros(rank, embedding_dim))

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings [..., D] of positions [...]."""
        return nn.functional.embedding(ids, self.rows) @ self.basis

    def first(self, number: int) -> Tensor:
        """Embeddings [number, D] of the positions from 0 on, without looking them up one by one."""
        return self.rows[:number] @ self.basis

    @torch.no_grad()
    def fill(self, table: Tensor) -> None:
        """Take the best approximation of `table` [V, D] (truncated singular value decomposition)."""
        left, sizes, right = torch.linalg.svd(table.float(), full_matrices=False)
        rank = min(self.rows.shape[1], len(sizes))
        roots = sizes[:rank].sqrt()
        self.rows.zero_()
        self.basis.zero_()
        self.rows[:, :rank] = left[:, :rank] * roots
        self.basis[:rank] = roots[:, None] * right[:rank]

    @property
    def weight(self) -> Tensor:
        """The whole table [V, D]."""
        return self.rows @ self.basis


class CodedEmbeddings(nn.Module):
    """Coded tokens, low-rank positions and token types, summed and normalised."""

    def __init__(self, config: CodedEncoderConfig) -> None:
        super().__init__()
        width, positions = config.hidden_size, config.max_position_embeddings
        self.word_embeddings = CodedEmbedding(config.vocab_size, width, config.code_groups, config.codes_per_group)
        self.position_embeddings = LowRankEmbedding(positions, width, config.position_rank)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Embeddings [B, T, D] of token ids [B, T], or of `inputs_embeds` [B, T, D] instead of the tokens' own.

        Positions count from 0 and types are all 0 where they are left out, which takes no look-up.
        """
        values = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        by_place = (
            self.position_embeddings.first(values.shape[1]) if position_ids is None else self.position_embeddings(position_ids)
        )
        kinds = self.token_type_embeddings.weight[0] if token_type_ids is None else self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(values + (by_place + kinds)))


class CodedPreTrainedModel(ElectraPreTrainedModel):
    """How fresh weights start."""

    config_class = CodedEncoderConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CodedEmbedding):
            init.normal_(module.tables, std=self.config.initializer_range)
        elif isinstance(module, LowRankEmbedding):
            init.normal_(module.rows, std=self.config.initializer_range**0.5)
            init.normal_(module.basis, std=self.config.initializer_range**0.5)


class CodedEncoderModel(CodedPreTrainedModel, ElectraModel):
    """The encoder: ELECTRA's layers, whose attention may be narrower than the residual stream."""

    def __init__(self, config: CodedEncoderConfig) -> None:
        ElectraPreTrainedModel.__init__(self, config)
        self.embeddings = CodedEmbeddings(config)  # type: ignore[assignment]
        self.encoder = ElectraEncoder(config)
        for layer in self.encoder.layer:
            _narrow_attention(layer, config)
        self.gradient_checkpointing = False
        self.post_init()


def _head_dropout(config: CodedEncoderConfig) -> nn.Dropout:
    return nn.Dropout(config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout)


class FirstTokenHead(nn.Module):
    """One linear layer on the first token's last state."""

    def __init__(self, config: CodedEncoderConfig) -> None:
        super().__init__()
        self.dropout = _head_dropout(config)
        self.out_proj = nn.Linear(config.hidden_size, int(config.num_labels or 1))

    def forward(self, features: Tensor, **_: Any) -> Tensor:
        """Logits [B, C] from states [B, T, D]."""
        return self.out_proj(self.dropout(features[:, 0]))


class CodedModel(CodedPreTrainedModel):
    """The encoder and a head, which the subclass adds."""

    electra: Any

    def __init__(self, config: CodedEncoderConfig) -> None:
        ElectraPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.electra = CodedEncoderModel(config)
        self.add_head(config)
        self.post_init()

    def add_head(self, config: CodedEncoderConfig) -> None:
        """Make the layers behind the encoder."""


class CodedForSequenceClassification(CodedModel, ElectraForSequenceClassification):
    """One answer for each text."""

    def add_head(self, config: CodedEncoderConfig) -> None:
        """One layer on the first token."""
        self.classifier = FirstTokenHead(config)  # type: ignore[assignment]


class CodedForTokenClassification(CodedModel, ElectraForTokenClassification):
    """One answer for each token."""

    def add_head(self, config: CodedEncoderConfig) -> None:
        """One layer on every token."""
        self.dropout = _head_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 1))


class CodedForQuestionAnswering(CodedModel, ElectraForQuestionAnswering):
    """Where an answer starts and ends."""

    def add_head(self, config: CodedEncoderConfig) -> None:
        """One layer on every token."""
        self.qa_outputs = nn.Linear(config.hidden_size, int(config.num_labels or 1))


def _narrow_attention(layer: Any, config: CodedEncoderConfig) -> None:
    """Give a layer's attention `num_attention_heads` heads of `head_dim` units, whatever the width of the residual stream."""
    attention = layer.attention.self
    attention.attention_head_size = config.head_dim
    attention.all_head_size = inner = config.num_attention_heads * config.head_dim
    attention.scaling = config.head_dim**-0.5
    for name in ("query", "key", "value"):
        setattr(attention, name, nn.Linear(config.hidden_size, inner))
    layer.attention.output.dense = nn.Linear(inner, config.hidden_size)
