"""Model families by transformers model type: where a model's parts are, what they cost, how they are copied into fewer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError
from potstill.ground.tables import resolve

if TYPE_CHECKING:
    from potstill.models.families.base import Family

FAMILIES: dict[str, str] = {
    "bert": "potstill.models.families.bert:Bert",
    "roberta": "potstill.models.families.roberta:Roberta",
    "xlm-roberta": "potstill.models.families.roberta:XlmRoberta",
    "electra": "potstill.models.families.electra:Electra",
    "potstill-encoder": "potstill.models.families.coded:Coded",
    "deberta-v2": "potstill.models.families.deberta_v2:DebertaV2",
    "distilbert": "potstill.models.families.distilbert:DistilBert",
    "vit": "potstill.models.families.vit:ViT",
    "deit": "potstill.models.families.vit:DeiT",
    "resnet": "potstill.models.families.resnet:ResNet",
    "convnext": "potstill.models.families.convnext:ConvNext",
    "mobilenet_v2": "potstill.models.families.mobilenet_v2:MobileNetV2",
}
# Further types whose positions are numbered from the padding id + 1, as RoBERTa's are.
COUNTED_FROM_PADDING = frozenset({"camembert", "xlm-roberta-xl", "roberta-prelayernorm", "longformer", "mpnet"})


def family_of(model: Any) -> Family:
    """The family of a model, a configuration or a `model_type`.

    Raises:
        ModelError: The model type is not supported; the message lists those that are.

    Example:
        >>> family_of("bert").roles["query"]
        'attention.self.query'
    """
    family = family_or_none(model)
    if family is None:
        raise ModelError(
            f"model type {_type_of(model) or type(model).__name__!r} is not one that Potstill can cut or tap by role",
            ", ".join(sorted(FAMILIES)),
            "take a teacher of one of these types, or name a student model and use response losses only",
        )
    return family


def family_or_none(model: Any) -> Family | None:
    """The same, or None for a model of no family."""
    model_type = _type_of(model)
    return _family(model_type) if model_type in FAMILIES else None


def position_offset(config: Any) -> int:
    """Rows of a position table that come before the first token's; also of types that are no families here."""
    family = family_or_none(config)
    if family is not None:
        return family.position_offset(config)
    return int(config.pad_token_id or 0) + 1 if _type_of(config) in COUNTED_FROM_PADDING else 0


@cache
def _family(model_type: str) -> Family:
    found: Family = resolve(FAMILIES, model_type, kind="model type")()
    return found


def _type_of(model: Any) -> str:
    return model if isinstance(model, str) else str(getattr(getattr(model, "config", model), "model_type", ""))
