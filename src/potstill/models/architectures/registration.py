"""The table of architectures, and how transformers' Auto classes learn of them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from potstill.errors import RecipeError
from potstill.ground.tables import nearest

_ROOM = "potstill.models.architectures"


@dataclass(frozen=True)
class Architecture:
    """One architecture that a student may have.

    Args:
        modality: "text" or "image".
        config: Where its configuration is, "module:Class".
        encoder: Where its model without a head is.
        classifier: Where its model with a classification head is.
    """

    modality: str
    config: str
    encoder: str
    classifier: str

    def part(self, name: str) -> Any:
        """The class behind `name`: "config", "encoder" or "classifier"."""
        module, _, attribute = str(getattr(self, name)).partition(":")
        return getattr(importlib.import_module(module), attribute)


ARCHITECTURES: dict[str, Architecture] = {
    "bilstm": Architecture(
        "text",
        f"{_ROOM}.configuration:BiLSTMConfig",
        f"{_ROOM}.bilstm:BiLSTMModel",
        f"{_ROOM}.bilstm:BiLSTMForSequenceClassification",
    ),
    "textcnn": Architecture(
        "text",
        f"{_ROOM}.configuration:TextCNNConfig",
        f"{_ROOM}.textcnn:TextCNNModel",
        f"{_ROOM}.textcnn:TextCNNForSequenceClassification",
    ),
    "static": Architecture(
        "text",
        f"{_ROOM}.configuration:StaticEmbeddingConfig",
        f"{_ROOM}.static:StaticEmbeddingModel",
        f"{_ROOM}.static:StaticEmbeddingForSequenceClassification",
    ),
    "cnn": Architecture(
        "image",
        f"{_ROOM}.configuration:CNNConfig",
        f"{_ROOM}.cnn:CNNModel",
        f"{_ROOM}.cnn:CNNForImageClassification",
    ),
}


def architecture_of(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        RecipeError: No such name; the message suggests the nearest one.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    guess = nearest(name, ARCHITECTURES)
    raise RecipeError(
        f"student architecture {name!r} does not exist",
        ", ".join(ARCHITECTURES),
        f"did you mean {guess!r}?" if guess else "leave it out for a student of the teacher's own architecture",
    )


def modality_of(name: str) -> str:
    """What a student of this architecture reads: "text" or "image".

    Raises:
        RecipeError: No such architecture.
    """
    return architecture_of(name).modality


def is_architecture(config: Any) -> bool:
    """Whether a configuration (or a model type) is of one of these architectures."""
    model_type = config if isinstance(config, str) else getattr(config, "model_type", "")
    return any(model_type == f"potstill-{name}" for name in ARCHITECTURES)


def register_configs() -> None:
    """Make the configurations known to transformers' AutoConfig; doing it twice changes nothing."""
    from transformers import AutoConfig

    for config in (*(architecture.part("config") for architecture in ARCHITECTURES.values()), _coded_config()):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def register() -> None:
    """Make the architectures known to transformers' Auto classes; doing it twice changes nothing."""
    import transformers

    register_configs()
    for architecture in ARCHITECTURES.values():
        config = architecture.part("config")
        head = architecture.classifier.rpartition("For")[2]
        transformers.AutoModel.register(config, architecture.part("encoder"), exist_ok=True)
        _auto(head).register(config, architecture.part("classifier"), exist_ok=True)
    coded = importlib.import_module(f"{_ROOM}.coded")
    transformers.AutoModel.register(_coded_config(), coded.CodedEncoderModel, exist_ok=True)
    for head in ("SequenceClassification", "TokenClassification", "QuestionAnswering"):
        _auto(head).register(_coded_config(), getattr(coded, f"CodedFor{head}"), exist_ok=True)


def _coded_config() -> Any:
    """Of the encoder with coded embeddings, which a plan chooses rather than a recipe."""
    return importlib.import_module(f"{_ROOM}.coded_configuration").CodedEncoderConfig


def _auto(head: str) -> Any:
    import transformers

    return getattr(transformers, f"AutoModelFor{head}")
