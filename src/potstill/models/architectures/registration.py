"""The table of architectures, and how transformers' Auto classes learn of them."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

from potstill.errors import RecipeError
from potstill.ground.tables import nearest

_ROOM = "potstill.models.architectures"


@dataclass(frozen=True)
class Architecture:
    """One architecture that a student may have; `modality` is what it reads, the other fields are "module:Class" in this package.

    Args:
        modality: "text" or "image".
        config: Where its configuration is.
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
        return getattr(importlib.import_module(f"{_ROOM}.{module}"), attribute)


ARCHITECTURES: dict[str, Architecture] = {
    "bilstm": Architecture("text", "configuration:BiLSTMConfig", "texts:BiLSTMModel", "texts:BiLSTMForSequenceClassification"),
    "textcnn": Architecture(
        "text", "configuration:TextCNNConfig", "texts:TextCNNModel", "texts:TextCNNForSequenceClassification"
    ),
    "static": Architecture(
        "text",
        "configuration:StaticEmbeddingConfig",
        "texts:StaticEmbeddingModel",
        "texts:StaticEmbeddingForSequenceClassification",
    ),
    "cnn": Architecture("image", "configuration:CNNConfig", "cnn:CNNModel", "cnn:CNNForImageClassification"),
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


def register_configs() -> None:
    """Make the configurations known to transformers' AutoConfig; doing it twice changes nothing."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from potstill.models.architectures.configuration import CodedEncoderConfig

    for config in (*(architecture.part("config") for architecture in ARCHITECTURES.values()), CodedEncoderConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


@functools.cache
def register() -> None:
    """Make the architectures known to transformers' Auto classes, once, and let saved models bring their files along.

    With these files a saved model loads with ``trust_remote_code=True`` where Potstill is not installed.
    """
    register_configs()
    for architecture in ARCHITECTURES.values():
        _register(architecture.part("config"), architecture.part("encoder"), architecture.part("classifier"))
    coded = importlib.import_module(f"{_ROOM}.coded")
    heads = (coded.CodedForSequenceClassification, coded.CodedForTokenClassification, coded.CodedForQuestionAnswering)
    _register(coded.CodedEncoderConfig, coded.CodedEncoderModel, *heads)


def _register(config: Any, *models: Any) -> None:
    import transformers

    config.register_for_auto_class()
    for model in models:
        _, is_whole, head = model.__name__.rpartition("For")
        auto = f"AutoModelFor{head}" if is_whole else "AutoModel"
        getattr(transformers, auto).register(config, model, exist_ok=True)
        model.register_for_auto_class(auto)
