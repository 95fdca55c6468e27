"""Static embeddings: no layer that sees more than one token, for the smallest and fastest students."""

# B batch, T tokens, E embedding width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from potstill.models.architectures.classifier import TextClassifier, TextEncoder, pooled_output
from potstill.models.architectures.configuration import StaticEmbeddingConfig


class StaticEmbeddingModel(TextEncoder):
    """The mean of token embeddings, weighted by what each token learns to weigh, [B, E].

    The weight of a token is softmax over the text of its learned score, so weights are positive and add up to one.
    *Source*: the weighted mean of Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings"
    (https://openreview.net/forum?id=SyK00v5xx), with learned weights that start at theirs and without its common component.
    """

    config_class = StaticEmbeddingConfig

    def __init__(self, config: StaticEmbeddingConfig) -> None:
        super().__init__(config)
        self.token_scores = nn.Embedding(config.vocab_size, 1)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding) and module.embedding_dim == 1:
            init.zeros_(module.weight)
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> BaseModelOutputWithPooling:
        """Hidden states [B, T, E], each token's share of the mean, and the mean [B, E]; arguments as in the classifier."""
        embedded, mask = self.embed(input_ids, attention_mask)
        scores = self.token_scores(input_ids).squeeze(-1)
        shares = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1)
        last = embedded * shares.unsqueeze(-1)
        return pooled_output(last, last.sum(dim=1), [embedded, last], output_hidden_states)


class StaticEmbeddingForSequenceClassification(TextClassifier):
    """`StaticEmbeddingModel`, a hidden layer with ReLU, and the classes."""

    config_class = StaticEmbeddingConfig
    encoder_class = StaticEmbeddingModel
