"""Families of decoders by transformers model type: which axis of which weight stands for what."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError
from potstill.ground.tables import resolve

if TYPE_CHECKING:
    from potstill.models.families.decoders.base import DecoderFamily

DECODERS: dict[str, str] = {
    "llama": "potstill.models.families.decoders.llama:Llama",
    "mistral": "potstill.models.families.decoders.llama:Llama",
    "qwen2": "potstill.models.families.decoders.llama:Llama",
    "qwen3": "potstill.models.families.decoders.llama:Llama",
    "smollm3": "potstill.models.families.decoders.llama:Llama",
    "olmo2": "potstill.models.families.decoders.llama:Olmo2",
    "granite": "potstill.models.families.decoders.llama:Llama",
    "cohere": "potstill.models.families.decoders.llama:Llama",
    "gemma": "potstill.models.families.decoders.gemma:Gemma",
    "gemma2": "potstill.models.families.decoders.gemma:Gemma",
    "gemma3_text": "potstill.models.families.decoders.gemma:Gemma",
    "phi3": "potstill.models.families.decoders.phi3:Phi3",
    "gpt2": "potstill.models.families.decoders.gpt2:Gpt2",
    "gpt_neox": "potstill.models.families.decoders.gpt_neox:GptNeoX",
}


def decoder_family_of(model: Any) -> DecoderFamily:
    """The family of a decoder, or of its configuration.

    Raises:
        ModelError: The model type is not supported; the message lists those that are.

    Example:
        >>> from transformers import LlamaConfig
        >>> decoder_family_of(LlamaConfig()).parts["mlp.down_proj"]
        ('hidden', 'ffn')
    """
    model_type = str(getattr(getattr(model, "config", model), "model_type", type(model).__name__))
    if model_type not in DECODERS:
        raise ModelError(
            f"no student can be cut out of a teacher of type {model_type!r}, whose parts are not known here",
            "a teacher of one of the types " + ", ".join(DECODERS),
            "name the student: --student FOLDER_OR_HUB_ID, a smaller model with the same tokenizer",
        )
    return _family(model_type)


@cache
def _family(model_type: str) -> DecoderFamily:
    found: DecoderFamily = resolve(DECODERS, model_type, kind="model type")()
    return found
