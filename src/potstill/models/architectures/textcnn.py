"""Convolutions over tokens, pooled by their maximum."""

# B batch, T tokens, E embedding width, F filters of each kind

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from potstill.models.architectures.classifier import TextClassifier, TextEncoder, pooled_output
from potstill.models.architectures.configuration import TextCNNConfig


class TextCNNModel(TextEncoder):
    """Token embeddings, filters of several widths with ReLU, and the maximum over real tokens, [B, kinds·F].

    *Source*: Kim 2014, "Convolutional Neural Networks for Sentence Classification" (https://arxiv.org/abs/1408.5882), the
    non-static variant. There a filter stays inside the text; here it may reach past both ends, where it sees zeros, so that each
    token has a hidden state and a text may be shorter than a filter.
    """

    config_class = TextCNNConfig

    def __init__(self, config: TextCNNConfig) -> None:
        super().__init__(config)
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(config.embedding_size, config.num_filters, kernel) for kernel in config.kernel_sizes]
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> BaseModelOutputWithPooling:
        """Hidden states [B, T, kinds·F] and the pooled text [B, kinds·F]; arguments as in the classifier."""
        embedded, mask = self.embed(input_ids, attention_mask)
        channels_first = embedded.transpose(1, 2)
        padded = (_reach(channels_first, kernel) for kernel in self.config.kernel_sizes)
        found = [torch.relu(layer(values)) for layer, values in zip(self.convolutions, padded)]
        last = torch.cat(found, dim=1).transpose(1, 2) * mask.unsqueeze(-1)
        return pooled_output(last, last.amax(dim=1), [embedded, last], output_hidden_states)


class TextCNNForSequenceClassification(TextClassifier):
    """`TextCNNModel` and the classes."""

    config_class = TextCNNConfig
    encoder_class = TextCNNModel


def _reach(values: Tensor, kernel: int) -> Tensor:
    """Zeros at both ends, so that a filter of `kernel` tokens gives as many values as there are tokens."""
    return functional.pad(values, ((kernel - 1) // 2, kernel // 2))
