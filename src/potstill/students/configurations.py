"""The transformers configuration of a student of a given shape."""

from __future__ import annotations

import copy
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from potstill.models.architectures.registration import register
from potstill.models.families import Family, head_size
from potstill.students.shapes import CODED_VOCABULARY, CODES, POSITION_RANK, Shape

FACTORISED_TYPE = "electra"  # the text encoder whose embedding may be narrower than its layers
CODED_TYPE = "potstill-encoder"  # the one whose embedding is put together from codes, and whose attention may be narrow


def code_choices(config: Any, family: Family, teacher: Shape) -> tuple[int, ...]:
    """How many codes a group of a coded embedding may have; none where the student cannot have such an embedding.

    An encoder of texts with a large vocabulary of full width can; a coded teacher's students have at most its codes.
    """
    if family.model_type == CODED_TYPE:
        return (*(number for number in CODES if number < config.codes_per_group), config.codes_per_group)
    is_encoder = family.modality == "text" and family.structure == "post-norm"
    is_large = not teacher.factorised and teacher.vocabulary >= CODED_VOCABULARY
    return tuple(number for number in CODES if 2 * number <= teacher.vocabulary) if is_encoder and is_large else ()


def position_offset(family: Family, config: Any) -> int:
    """Position rows that come before the first token's (RoBERTa's custom), which a student of another type drops."""
    return config.pad_token_id + 1 if family.position_offset_is_padding else 0


def student_config(config: Any, family: Family, shape: Shape) -> PreTrainedConfig:
    """The configuration of a student of this shape: the teacher's type where that can take it, else the type that can.

    Args:
        config: The teacher's, not changed.
        family: The teacher's.
        shape: From the search.
    """
    if shape.codes:
        return _coded_config(config, family, shape)
    if shape.factorised and family.model_type != FACTORISED_TYPE:
        return _factorised_config(config, family, shape)
    student = copy.deepcopy(config)
    values = {"hidden": shape.hidden, "ffn": shape.ffn, "layers": shape.layers, "heads": shape.heads}
    for name, value in values.items():
        setattr(student, family.config_keys[name], value)
    if family.modality == "text":
        student.vocab_size = shape.vocabulary
        if hasattr(student, "embedding_size"):
            student.embedding_size = shape.embedding
    elif shape.heads * head_size(family, config) != shape.hidden:
        student.head_dim = head_size(family, config)
    if hasattr(student, "pooler_output_size"):
        student.pooler_output_size = shape.hidden
    return student


def _factorised_config(config: Any, family: Family, shape: Shape) -> PreTrainedConfig:
    types = max(2, getattr(config, "type_vocab_size", 0))
    values = _encoder_values(config, family, shape) | {"embedding_size": shape.embedding, "type_vocab_size": types}
    return AutoConfig.for_model(FACTORISED_TYPE, **values)


def _coded_config(config: Any, family: Family, shape: Shape) -> PreTrainedConfig:
    register()
    own = {
        "embedding_size": shape.hidden,
        "type_vocab_size": max(1, getattr(config, "type_vocab_size", 0)),
        "head_dim": head_size(family, config),
        "code_groups": shape.groups,
        "codes_per_group": shape.codes,
        "position_rank": POSITION_RANK,
    }
    return AutoConfig.for_model(CODED_TYPE, **_encoder_values(config, family, shape), **own)


def _encoder_values(config: Any, family: Family, shape: Shape) -> dict[str, Any]:
    """What every type of encoder calls by the same name, taken from the shape and from the teacher."""
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.ffn,
        "hidden_act": getattr(config, "hidden_act", getattr(config, "activation", "gelu")),
        "hidden_dropout_prob": getattr(config, "hidden_dropout_prob", getattr(config, "dropout", 0.1)),
        "attention_probs_dropout_prob": getattr(
            config, "attention_probs_dropout_prob", getattr(config, "attention_dropout", 0.1)
        ),
        "classifier_dropout": getattr(config, "classifier_dropout", None),
        "max_position_embeddings": config.max_position_embeddings - position_offset(family, config),
        "layer_norm_eps": getattr(config, "layer_norm_eps", 1e-12),
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "problem_type": config.problem_type,
        "architectures": config.architectures,
        "id2label": dict(config.id2label),
        "label2id": dict(config.label2id),
    }
