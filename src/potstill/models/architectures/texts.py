"""Small networks for texts: a bidirectional LSTM, convolutions, and static embeddings."""

# B batch, T tokens, E embedding width, H units of an LSTM per direction, F filters of each kind

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

from .classifier import TextClassifier, TextEncoder
from .configuration import BiLSTMConfig, StaticEmbeddingConfig, TextCNNConfig


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

    def encode(self, embedded: Tensor, mask: Tensor, input_ids: Tensor) -> tuple[list[Tensor], Tensor]:
        """States [B, T, 2·H] of every layer, and the pooled text [B, 4·H]."""
        places = reading_places(mask)
        states = [embedded]
        for number, layer in enumerate(self.layers):
            value = states[-1] if number == 0 else self.dropout(states[-1])
            states.append(layer(value, *places) * mask.unsqueeze(-1))
        return states[1:], max_and_mean(states[-1], mask)


class BiLSTMForSequenceClassification(TextClassifier):
    """`BiLSTMModel`, a hidden layer with ReLU, and the classes."""

    config_class = BiLSTMConfig
    encoder_class = BiLSTMModel


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

    def encode(self, embedded: Tensor, mask: Tensor, input_ids: Tensor) -> tuple[list[Tensor], Tensor]:
        """States [B, T, kinds·F], and the pooled text [B, kinds·F]; zeros at both ends give each filter a value per token."""
        values = embedded.transpose(1, 2)
        found = [
            torch.relu(layer(functional.pad(values, ((kernel - 1) // 2, kernel // 2))))
            for layer, kernel in zip(self.convolutions, self.config.kernel_sizes)
        ]
        last = torch.cat(found, dim=1).transpose(1, 2) * mask.unsqueeze(-1)
        return [last], last.amax(dim=1)


class TextCNNForSequenceClassification(TextClassifier):
    """`TextCNNModel` and the classes."""

    config_class = TextCNNConfig
    encoder_class = TextCNNModel


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

    def encode(self, embedded: Tensor, mask: Tensor, input_ids: Tensor) -> tuple[list[Tensor], Tensor]:
        """Each token's share of the mean [B, T, E], and the mean [B, E]."""
        scores = self.token_scores(input_ids).squeeze(-1)
        shares = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1)
        last = embedded * shares.unsqueeze(-1)
        return [last], last.sum(dim=1)


class StaticEmbeddingForSequenceClassification(TextClassifier):
    """`StaticEmbeddingModel`, a hidden layer with ReLU, and the classes."""

    config_class = StaticEmbeddingConfig
    encoder_class = StaticEmbeddingModel


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
