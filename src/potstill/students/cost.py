"""Parameters, FLOPs and bytes of a configuration, by arithmetic, without allocating weights.

Letters: H hidden width, A attention width (heads × head size), F FFN neurons, E embedding width, V vocabulary, T tokens.
One multiply-accumulate counts as two FLOPs; gathers, norms, activations and softmax count as none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from potstill.models.families import Family, family_of, head_size
from potstill.students import convnext_cost, mobilenet_shapes

BITS_PER_BYTE = 8
CODES_NAME = "word_embeddings.codes"  # the buffer of a coded embedding


def parameters(config: Any) -> int:
    """Trainable parameters of the classification model of `config`; equals the sum of `p.numel()` of the built model.

    The integers of a coded embedding count too, each as one, so that no ratio hides them.

    Raises:
        ModelError: The model type is not supported.

    Example:
        >>> from transformers import BertConfig
        >>> parameters(BertConfig(num_labels=2))
        109483778
    """
    family = family_of(config)
    if family.structure == "convolution":
        return int(_CONVOLUTIONAL[family.model_type][0](config))
    hidden, attention, ffn = widths(config)
    layers = family.size(config, "layers")
    per_layer = layer_parameters(hidden, attention, ffn, qkv_bias=getattr(config, "qkv_bias", True))
    outside = image_parameters(config, hidden) if family.modality == "image" else _text_parameters(config, hidden)
    return int(layers * per_layer + outside)


def parameters_of(model: Any) -> int:
    """The same of a built model: its parameters, and the integers of a coded embedding."""
    integers = sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith(CODES_NAME))
    return sum(parameter.numel() for parameter in model.parameters()) + integers


def flops(config: Any, *, tokens: int = 128, image_size: int = 224) -> int:
    """FLOPs of one forward pass of one row.

    Args:
        config: A configuration of a supported model type.
        tokens: Tokens per row, for text.
        image_size: Pixels per side, for convolutional models, whose configuration does not say.

    Raises:
        ModelError: The model type is not supported.
    """
    family = family_of(config)
    if family.structure == "convolution":
        return 2 * int(_CONVOLUTIONAL[family.model_type][1](config, image_size))
    hidden, attention, ffn = widths(config)
    layers = family.size(config, "layers")
    if family.modality == "image":
        patches, pixels = _patches(config)
        tokens = patches + _extra_tokens(config)
        outside = patches * pixels * hidden + hidden * config.num_labels
    else:
        embedding = embedding_width(config, hidden)
        head = hidden * hidden + hidden * config.num_labels if has_pooler(config) else tokens * hidden * config.num_labels
        outside = (tokens * embedding * hidden if embedding != hidden else 0) + head
    per_layer = 4 * tokens * hidden * attention + 2 * tokens * tokens * attention + 2 * tokens * hidden * ffn
    return int(2 * (layers * per_layer + outside))


def bytes_of(config: Any, *, bits: int = 32) -> int:
    """Bytes of the weights when every parameter takes `bits` bits."""
    return -(-parameters(config) * bits // BITS_PER_BYTE)


def widths(config: Any) -> tuple[int, int, int]:
    """Hidden width, attention width (heads × head size) and FFN neurons of an encoder."""
    family: Family = family_of(config)
    attention = family.size(config, "heads") * head_size(family, config)
    return family.size(config, "hidden"), attention, family.size(config, "ffn")


def embedding_width(config: Any, hidden: int) -> int:
    """Width of the embedding table: `embedding_size` where the model has one, else the hidden width."""
    return int(getattr(config, "embedding_size", None) or hidden)


def layer_parameters(hidden: Any, attention: Any, ffn: Any, *, qkv_bias: bool = True) -> Any:
    """Parameters of one encoder layer; takes numbers or arrays."""
    projections = 4 * hidden * attention + hidden + (3 * attention if qkv_bias else 0)
    return projections + 2 * hidden * ffn + ffn + hidden + 4 * hidden


def has_pooler(config: Any) -> bool:
    """Whether a text model of `config` has a layer between the encoder and the final one: not where it answers for each token."""
    if hasattr(config, "code_groups"):
        return False
    heads = getattr(config, "architectures", None) or ()
    return not any(name.endswith(("ForTokenClassification", "ForQuestionAnswering", "ForSentenceEmbedding")) for name in heads)


def text_parameters(
    hidden: Any, embedding: Any, vocabulary: Any, positions: int, token_types: int, num_labels: int, *, pooler: bool = True
) -> Any:
    """Parameters outside the layers of a text encoder: embeddings, their projection, pooler (where there is one), final layer."""
    tables = (vocabulary + positions + token_types + 2) * embedding
    projection = (embedding * hidden + hidden) * (embedding != hidden)
    return tables + projection + (hidden * hidden + hidden) * pooler + hidden * num_labels + num_labels


def coded_parameters(
    hidden: Any, vocabulary: Any, groups: Any, codes: Any, positions: int, rank: int, token_types: int, num_labels: int
) -> Any:
    """The same as `text_parameters` of an encoder with coded embeddings, each code counted as a parameter."""
    tables = codes * hidden + positions * rank + rank * hidden + (token_types + 2) * hidden
    return tables + vocabulary * groups + hidden * num_labels + num_labels


def image_parameters(config: Any, hidden: Any) -> Any:
    """Parameters outside the layers of a vision transformer of the image geometry of `config`."""
    patches, pixels = _patches(config)
    extra = _extra_tokens(config)
    embeddings = pixels * hidden + hidden + extra * hidden + (patches + extra) * hidden
    return embeddings + 2 * hidden + hidden * config.num_labels + config.num_labels


def _text_parameters(config: Any, hidden: int) -> int:
    embedding = embedding_width(config, hidden)
    token_types = getattr(config, "type_vocab_size", 0)
    if hasattr(config, "code_groups"):
        codes = config.vocab_size, config.code_groups, config.codes_per_group
        positions = config.max_position_embeddings, config.position_rank
        return coded_parameters(hidden, *codes, *positions, token_types, config.num_labels)
    sizes = config.vocab_size, config.max_position_embeddings, token_types, config.num_labels
    return text_parameters(hidden, embedding, *sizes, pooler=has_pooler(config))


def _patches(config: Any) -> tuple[int, int]:
    height, width = _pair(config.image_size)
    patch_height, patch_width = _pair(config.patch_size)
    return (height // patch_height) * (width // patch_width), config.num_channels * patch_height * patch_width


def _extra_tokens(config: Any) -> int:
    return 2 if config.model_type == "deit" else 1


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) else (int(size), int(size))


def convolutions(config: Any, image_size: int = 224) -> Iterator[tuple[int, int, int, int]]:
    """Every convolution of a ResNet as (input channels, output channels, kernel, output side in pixels)."""
    side = (image_size - 1) // 2 + 1
    yield config.num_channels, config.embedding_size, 7, side
    side = (side - 1) // 2 + 1
    inputs = config.embedding_size
    for stage, (outputs, depth) in enumerate(zip(config.hidden_sizes, config.depths)):
        for block in range(depth):
            stride = 2 if block == 0 and (stage > 0 or config.downsample_in_first_stage) else 1
            before, side = side, (side - 1) // stride + 1
            if inputs != outputs or stride != 1:
                yield inputs, outputs, 1, side
            yield from _block_convolutions(config, inputs, outputs, before, side)
            inputs = outputs


def _block_convolutions(config: Any, inputs: int, outputs: int, before: int, side: int) -> Iterator[tuple[int, int, int, int]]:
    if config.layer_type == "basic":
        yield inputs, outputs, 3, side
        yield outputs, outputs, 3, side
        return
    inner = outputs // 4
    yield inputs, inner, 1, side if config.downsample_in_bottleneck else before
    yield inner, inner, 3, side
    yield inner, outputs, 1, side


def _resnet_parameters(config: Any) -> int:
    convolved = sum(inputs * outputs * kernel**2 + 2 * outputs for inputs, outputs, kernel, _ in convolutions(config))
    return int(convolved + config.hidden_sizes[-1] * config.num_labels + config.num_labels)


def _resnet_multiply_adds(config: Any, image_size: int) -> int:
    found = convolutions(config, image_size)
    spatial = sum(inputs * outputs * kernel**2 * side**2 for inputs, outputs, kernel, side in found)
    return int(spatial + config.hidden_sizes[-1] * config.num_labels)


# Model type → parameters of a configuration, and multiply-accumulates of an image of a size.
_CONVOLUTIONAL: dict[str, tuple[Callable[[Any], int], Callable[[Any, int], int]]] = {
    "resnet": (_resnet_parameters, _resnet_multiply_adds),
    "convnext": (convnext_cost.parameters, convnext_cost.multiply_adds),
    "mobilenet_v2": (mobilenet_shapes.parameters, mobilenet_shapes.multiply_adds),
}
