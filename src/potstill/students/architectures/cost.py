"""Parameters and FLOPs of the architectures, by arithmetic.

Letters: V vocabulary, E embedding width, H units, T tokens, C classes. One multiply-accumulate counts as two FLOPs; gathers,
norms, activations and pooling count as none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from potstill.models.architectures.cnn import stem_kernel

TOKENS = 128


def parameters(config: Any) -> int:
    """Trainable parameters of the classifier of `config`; equals the sum of `p.numel()` of the built model."""
    return _ENCODERS[config.model_type](config) + _head(config) + _head_biases(config)


def flops(config: Any, *, tokens: int = TOKENS) -> int:
    """FLOPs of one row of `tokens` tokens, or of one image of the configuration's size."""
    if config.model_type == "potstill-cnn":
        body = sum(inputs * outputs * kernel**2 * side**2 for inputs, outputs, kernel, side in convolutions(config))
    elif config.model_type == "potstill-bilstm":
        body = tokens * sum(8 * config.num_units * (width + config.num_units) for width in _lstm_inputs(config))
    elif config.model_type == "potstill-textcnn":
        body = tokens * sum(config.kernel_sizes) * config.embedding_size * config.num_filters
    else:
        body = tokens * config.embedding_size
    return int(2 * (body + _head(config)))


def convolutions(config: Any) -> Iterator[tuple[int, int, int, int]]:
    """Every convolution of a CNN as (input channels, output channels, kernel, output side in pixels)."""
    side = -(-config.image_size // config.stem_stride)
    inputs = config.hidden_sizes[0]
    yield config.num_channels, inputs, stem_kernel(config.stem_stride), side
    for stage, (outputs, depth) in enumerate(zip(config.hidden_sizes, config.depths)):
        side = side if stage == 0 else -(-side // 2)
        for _ in range(depth):
            yield inputs, outputs, 3, side
            inputs = outputs


def _bilstm(config: Any) -> int:
    layers = sum(8 * config.num_units * (width + config.num_units + 2) for width in _lstm_inputs(config))
    return config.vocab_size * config.embedding_size + layers


def _lstm_inputs(config: Any) -> list[int]:
    return [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)


def _textcnn(config: Any) -> int:
    seen = sum(config.kernel_sizes) * config.embedding_size + len(config.kernel_sizes)
    return config.vocab_size * config.embedding_size + seen * config.num_filters


def _static(config: Any) -> int:
    return config.vocab_size * (config.embedding_size + 1)


def _cnn(config: Any) -> int:
    return sum(inputs * outputs * kernel**2 + 2 * outputs for inputs, outputs, kernel, _ in convolutions(config))


def _head(config: Any) -> int:
    """Weights of the hidden layer, where there is one, and of the classes."""
    middle = getattr(config, "classifier_size", 0)
    if not middle:
        return int(config.pooled_size * config.num_labels)
    return int(config.pooled_size * middle + middle * config.num_labels)


def _head_biases(config: Any) -> int:
    return int(getattr(config, "classifier_size", 0) + config.num_labels)


_ENCODERS = {
    "potstill-bilstm": _bilstm,
    "potstill-textcnn": _textcnn,
    "potstill-static": _static,
    "potstill-cnn": _cnn,
}
