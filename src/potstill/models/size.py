"""Size of a model: parameters and FLOPs, counted, or by arithmetic from a configuration without allocating weights."""

from __future__ import annotations

from typing import Any

from potstill.models.architectures.configuration import OwnConfig
from potstill.models.families import family_of, family_or_none

CODES_NAME = "word_embeddings.codes"  # the buffer of a coded embedding


def parameters(config: Any) -> int:
    """Trainable parameters of the classification model of `config`; equals the sum of `p.numel()` of the built model.

    Raises:
        ModelError: The model type is not supported.

    Example:
        >>> from transformers import BertConfig
        >>> parameters(BertConfig(num_labels=2))
        109483778
    """
    return config.parameters() if isinstance(config, OwnConfig) else family_of(config).parameters(config)


def parameters_of(model: Any) -> int:
    """The same of a built model: its parameters, and the integers of a coded embedding."""
    integers = sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith(CODES_NAME))
    return sum(parameter.numel() for parameter in model.parameters()) + integers


def flops(config: Any, *, tokens: int = 128, image_size: int = 224) -> int:
    """FLOPs of one forward pass of one row.

    Args:
        config: A configuration of a supported model type.
        tokens: Tokens per row, for text.
        image_size: Pixels per side, for models whose configuration does not say.

    Raises:
        ModelError: The model type is not supported.
    """
    if isinstance(config, OwnConfig):
        return config.flops(tokens)
    return family_of(config).flops(config, tokens=tokens, image_size=image_size)


def built_parameters(config: Any) -> int:
    """Parameters of a configuration of any type, by building the model without weights where there is no closed form."""
    if isinstance(config, OwnConfig) or family_or_none(config) is not None:
        return parameters(config)
    import torch
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    auto: Any = AutoModelForSequenceClassification
    if type(config) in AutoModelForImageClassification._model_mapping:
        auto = AutoModelForImageClassification
    with torch.device("meta"):
        return parameters_of(auto.from_config(config))


def depth_of(config: Any) -> int:
    """Layers, or blocks over all stages; of a model of no family what its configuration says, else 1."""
    family = family_or_none(config)
    if family is not None:
        return family.depth(config)
    depths = getattr(config, "depths", None)
    return sum(depths) if depths else int(getattr(config, "num_hidden_layers", 1))
