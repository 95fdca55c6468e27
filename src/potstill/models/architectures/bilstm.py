"""A bidirectional LSTM that padding cannot change, without packed sequences, so that it can be exported."""

# B batch, T tokens, E embedding width, H units per direction

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from potstill.models.architectures.classifier import TextClassifier, TextEncoder, pooled_output
from potstill.models.architectures.configuration import BiLSTMConfig


class BiLSTMLayer(nn.Module):
    """Two LSTMs, each of which reads the real tokens first, in its own direction, and the padding after them."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.forward_lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(input_size, hidden_size, batch_first=True)

    def forward(self, values: Tensor, forward_places: Tensor, backward_places: Tensor) -> Tensor:
        """[B, T, input] → [B, T, 2·H], both directions of a token joined."""
        ahead = _read(self.forward_lstm, values, forward_places)
        return torch.cat([ahead, _read(self.backward_lstm, values, backward_places)], dim=-1)


class BiLSTMModel(TextEncoder):
    """Token embeddings, layers of `BiLSTMLayer`, and the maximum and mean over real tokens, [B, 4·H].

    *Source*: Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks"
    (https://arxiv.org/abs/1903.12136). There the last states of both directions are pooled, here the maximum and the mean.
    """

    config_class = BiLSTMConfig

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        widths = [config.embedding_size, *[config.hidden_size] * (config.num_hidden_layers - 1)]
        self.layers = nn.ModuleList([BiLSTMLayer(width, config.num_units) for width in widths])
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> BaseModelOutputWithPooling:
        """Hidden states [B, T, 2·H] and the pooled text [B, 4·H]; arguments as in the classifier."""
        value, mask = self.embed(input_ids, attention_mask)
        places = reading_places(mask)
        states = [value]
        for number, layer in enumerate(self.layers):
            value = layer(value if number == 0 else self.dropout(value), *places) * mask.unsqueeze(-1)
            states.append(value)
        return pooled_output(value, max_and_mean(value, mask), states, output_hidden_states)


class BiLSTMForSequenceClassification(TextClassifier):
    """`BiLSTMModel`, a hidden layer with ReLU, and the classes."""

    config_class = BiLSTMConfig
    encoder_class = BiLSTMModel


def reading_places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """[B, T] twice: at which step each token is read forwards and backwards; real tokens come first, then padding.

    Example:
        >>> [places.tolist() for places in reading_places(torch.tensor([[True, True, True, False]]))]
        [[[0, 1, 2, 3]], [[2, 1, 0, 3]]]
    """
    real = mask.long()
    length = real.sum(dim=1, keepdim=True)
    after = length + (1 - real).cumsum(dim=1) - 1
    place = real.cumsum(dim=1) - 1
    return torch.where(mask, place, after), torch.where(mask, length - 1 - place, after)


def max_and_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[B, T, D] → [B, 2·D]: maximum and mean over real tokens, of values above -1; a row without any gives -1 and 0."""
    real = mask.unsqueeze(-1)
    largest = values.masked_fill(~real, -1.0).amax(dim=1)
    mean = (values * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return torch.cat([largest, mean], dim=-1)


def _read(lstm: nn.LSTM, values: Tensor, places: Tensor) -> Tensor:
    """Run `lstm` over `values` in the order of `places`; the answers lie where their tokens lie."""
    steps = torch.arange(places.shape[1], device=places.device).expand_as(places)
    order = torch.zeros_like(places).scatter(1, places, steps)
    read, _ = lstm(_take(values, order))
    return _take(read, places)


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
