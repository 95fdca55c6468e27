"""Configurations of the architectures that are not transformers' own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from transformers.configuration_utils import PreTrainedConfig


class StudentConfig(PreTrainedConfig):
    """The base: the first one that is made lets its package, where it has a `register`, make the models known to transformers."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        register = getattr(sys.modules.get(__name__.rpartition(".")[0]), "register", None)
        if register is not None:
            register()


class OwnConfig(StudentConfig):
    """The base of small networks: what one costs, by arithmetic, without allocating weights.

    One multiply-accumulate counts as two FLOPs; gathers, norms, activations and pooling count as none.
    """

    @property
    def pooled_size(self) -> int:
        """Numbers that the classifier reads."""
        raise NotImplementedError

    def parameters(self) -> int:
        """Trainable parameters of the classifier; equals the sum of `p.numel()` of the built model."""
        return self._encoder_parameters() + self._head_weights() + getattr(self, "classifier_size", 0) + int(self.num_labels or 0)

    def flops(self, tokens: int = 128) -> int:
        """FLOPs of one row of `tokens` tokens, or of one image of the configuration's size."""
        return int(2 * (self._multiply_adds(tokens) + self._head_weights()))

    def _encoder_parameters(self) -> int:
        raise NotImplementedError

    def _multiply_adds(self, tokens: int) -> int:
        raise NotImplementedError

    def _head_weights(self) -> int:
        """Weights of the hidden layer, where there is one, and of the classes."""
        middle = getattr(self, "classifier_size", 0)
        labels = int(self.num_labels or 0)
        return self.pooled_size * middle + middle * labels if middle else self.pooled_size * labels


class BiLSTMConfig(OwnConfig):
    """A bidirectional LSTM over token embeddings.

    Args:
        num_units: Units of each direction of each layer; hidden states are twice as wide.
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

    def _inputs(self) -> list[int]:
        return [self.embedding_size] + [self.hidden_size] * (self.num_hidden_layers - 1)

    def _encoder_parameters(self) -> int:
        layers = sum(8 * self.num_units * (width + self.num_units + 2) for width in self._inputs())
        return self.vocab_size * self.embedding_size + layers

    def _multiply_adds(self, tokens: int) -> int:
        return tokens * sum(8 * self.num_units * (width + self.num_units) for width in self._inputs())


class TextCNNConfig(OwnConfig):
    """Convolutions of several widths over token embeddings.

    Args:
        kernel_sizes: Tokens that a filter sees, one entry per kind of filter.
        num_filters: Filters of each kind.
        dropout: On embeddings and before the classes (the paper has 0.5 before the classes only).
        num_hidden_layers: Layers of convolution, always 1: knowledge taps read from it how many hidden states there are.
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

    def _encoder_parameters(self) -> int:
        seen = sum(self.kernel_sizes) * self.embedding_size + len(self.kernel_sizes)
        return self.vocab_size * self.embedding_size + seen * self.num_filters

    def _multiply_adds(self, tokens: int) -> int:
        return tokens * sum(self.kernel_sizes) * self.embedding_size * self.num_filters


class StaticEmbeddingConfig(OwnConfig):
    """A weighted mean of token embeddings and a small perceptron.

    Args:
        classifier_size: Units between the mean and the classes.
        dropout: Before each linear layer.
        num_hidden_layers: Always 1: knowledge taps read from it how many hidden states there are.
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

    def _encoder_parameters(self) -> int:
        return self.vocab_size * (self.embedding_size + 1)

    def _multiply_adds(self, tokens: int) -> int:
        return tokens * self.embedding_size


class CNNConfig(OwnConfig):
    """Stages of convolution, batch norm and ReLU.

    Args:
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

    def convolutions(self) -> Iterator[tuple[int, int, int, int]]:
        """Every convolution as (input channels, output channels, kernel, output side in pixels)."""
        side = -(-self.image_size // self.stem_stride)
        inputs = self.hidden_sizes[0]
        yield self.num_channels, inputs, stem_kernel(self.stem_stride), side
        for stage, (outputs, depth) in enumerate(zip(self.hidden_sizes, self.depths)):
            side = side if stage == 0 else -(-side // 2)
            for _ in range(depth):
                yield inputs, outputs, 3, side
                inputs = outputs

    def _encoder_parameters(self) -> int:
        return sum(inputs * outputs * kernel**2 + 2 * outputs for inputs, outputs, kernel, _ in self.convolutions())

    def _multiply_adds(self, tokens: int) -> int:
        return sum(inputs * outputs * kernel**2 * side**2 for inputs, outputs, kernel, side in self.convolutions())


class CodedEncoderConfig(StudentConfig):
    """An encoder with ELECTRA's layers, product-coded token embeddings, low-rank positions and attention of any width.

    Args:
        head_dim: Units per head; `num_attention_heads` × `head_dim` may be less than `hidden_size`.
        code_groups: Pieces that a token's vector is put together from; divides `hidden_size`.
        codes_per_group: Different pieces of each group.
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


def stem_kernel(stride: int) -> int:
    """Pixels per side that the first convolution sees."""
    return 3 if stride == 1 else 2 * stride - 1
