"""Configurations of the architectures that are not transformers' own."""

from __future__ import annotations

from transformers import PreTrainedConfig


class BiLSTMConfig(PreTrainedConfig):
    """A bidirectional LSTM over token embeddings.

    Args:
        vocab_size: Tokens.
        embedding_size: Width of a token's embedding.
        num_units: Units of each direction of each layer; hidden states are twice as wide.
        num_hidden_layers: Layers.
        classifier_size: Units between the pooled text and the classes.
        dropout: On embeddings, between layers and before the classes.
        pad_token_id: What fills a row; masked, so that it never counts.
    """

    model_type = "potstill-bilstm"

    vocab_size: int = 30522
    embedding_size: int = 128
    num_units: int = 256
    num_hidden_layers: int = 1
    classifier_size: int = 256
    dropout: float = 0.1
    pad_token_id: int | None = 0

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states: both directions."""
        return 2 * self.num_units

    @property
    def pooled_size(self) -> int:
        """Maximum and mean of both directions."""
        return 4 * self.num_units


class TextCNNConfig(PreTrainedConfig):
    """Convolutions of several widths over token embeddings.

    Args:
        vocab_size: Tokens.
        embedding_size: Width of a token's embedding.
        kernel_sizes: Tokens that a filter sees, one entry per kind of filter.
        num_filters: Filters of each kind.
        dropout: On embeddings and before the classes (the paper has 0.5 before the classes only).
        num_hidden_layers: Layers of convolution, always 1; tells knowledge taps how many hidden states there are.
        pad_token_id: What fills a row; masked, so that it never counts.
    """

    model_type = "potstill-textcnn"

    vocab_size: int = 30522
    embedding_size: int = 128
    kernel_sizes: list[int] | tuple[int, ...] = (3, 4, 5)
    num_filters: int = 100
    dropout: float = 0.1
    num_hidden_layers: int = 1
    pad_token_id: int | None = 0

    @property
    def hidden_size(self) -> int:
        """Channels of the hidden state: all filters."""
        return len(self.kernel_sizes) * self.num_filters

    @property
    def pooled_size(self) -> int:
        """The maximum of every filter."""
        return self.hidden_size


class StaticEmbeddingConfig(PreTrainedConfig):
    """A weighted mean of token embeddings and a small perceptron.

    Args:
        vocab_size: Tokens.
        embedding_size: Width of a token's embedding.
        classifier_size: Units between the mean and the classes.
        dropout: Before each linear layer.
        num_hidden_layers: Always 1; tells knowledge taps how many hidden states there are.
        pad_token_id: What fills a row; masked, so that it never counts.
    """

    model_type = "potstill-static"

    vocab_size: int = 30522
    embedding_size: int = 256
    classifier_size: int = 256
    dropout: float = 0.1
    num_hidden_layers: int = 1
    pad_token_id: int | None = 0

    @property
    def hidden_size(self) -> int:
        """Width of the hidden state: that of the embeddings."""
        return self.embedding_size

    @property
    def pooled_size(self) -> int:
        """The mean embedding."""
        return self.embedding_size


class CNNConfig(PreTrainedConfig):
    """Stages of convolution, batch norm and ReLU.

    Args:
        num_channels: Of the image.
        image_size: Pixels per side that the student was planned for; other sizes work.
        stem_stride: Pixels between the positions of the first convolution: 1, 2 or 4.
        hidden_sizes: Channels of each stage; each but the first halves the resolution.
        depths: Convolutions of each stage.
        dropout: Before the classes.
    """

    model_type = "potstill-cnn"

    num_channels: int = 3
    image_size: int = 224
    stem_stride: int = 4
    hidden_sizes: list[int] | tuple[int, ...] = (32, 64, 128, 256)
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    dropout: float = 0.0

    @property
    def pooled_size(self) -> int:
        """Channels of the last stage."""
        return int(self.hidden_sizes[-1])
