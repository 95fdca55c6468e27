"""Where the parts of a model live: one literal row per supported transformers model type.

Paths are relative to the base model (`model.base_model`), or to the whole model for the head. Block numbers are 1-based,
negative ones count from the end, as in need names (``hidden:k``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError, NeedsError
from potstill.students import mobilenet_shapes

BLOCK_ROLES = ("query", "key", "value", "attention_output", "attention_norm", "up", "down", "output_norm")


@dataclass(frozen=True)
class Family:
    """The module paths and configuration keys of one model type.

    Args:
        model_type: The `model_type` of the transformers configuration.
        modality: "text" or "image".
        structure: "post-norm" (BERT-like), "pre-norm" (ViT-like) or "convolution" (ResNet, MobileNetV2, ConvNeXt).
        blocks_path: The module list of blocks (stages of a convolutional model).
        roles: Role → path inside a block, for `BLOCK_ROLES`; empty for convolutional models.
        embedding_paths: Modules whose output is the embedding; the first that exists counts.
        head_paths: The final linear layer, from the whole model; the first that exists counts.
        pooler_paths: The linear layer before the final one, from the whole model.
        pooler_activation: What follows the pooler: "tanh", "relu", "gelu", or "" where there is no pooler.
        config_keys: Potstill's name of a shape → the configuration key.
        architecture: The class that `Auto…` gives for classification.
        position_offset_is_padding: Positions start at `pad_token_id + 1` (RoBERTa's custom).
        stage_ends: Which of the modules under `blocks_path` (from 0) end a stage; empty where each is a block or stage.
        size_of: (configuration, name) → shape, where the configuration has no key for it.
    """

    model_type: str
    modality: str
    structure: str
    blocks_path: str
    roles: dict[str, str]
    embedding_paths: tuple[str, ...]
    head_paths: tuple[str, ...]
    pooler_paths: tuple[str, ...]
    pooler_activation: str
    config_keys: dict[str, str]
    architecture: str
    position_offset_is_padding: bool = False
    stage_ends: tuple[int, ...] = ()
    size_of: Callable[[Any, str], Any] | None = None

    def base(self, model: nn.Module) -> nn.Module:
        """The model without its head."""
        return model.base_model if isinstance(model, PreTrainedModel) else model

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The blocks (stages of a convolutional model), first to last."""
        found = list(self.base(model).get_submodule(self.blocks_path).children())
        return [found[end] for end in self.stage_ends] if self.stage_ends else found

    def block(self, model: nn.Module, k: int) -> nn.Module:
        """Block `k`, 1-based, negative from the end.

        Raises:
            NeedsError: There is no such block.
        """
        blocks = self.blocks(model)
        if k == 0 or abs(k) > len(blocks):
            raise NeedsError(
                f"block {k} of a {self.model_type} model with {len(blocks)} blocks",
                f"1 to {len(blocks)}, or -1 to -{len(blocks)}",
                "name an existing block, for example -1 for the last",
            )
        return blocks[k - 1 if k > 0 else k]

    def part(self, model: nn.Module, k: int, role: str) -> Any:
        """The module that plays `role` (one of `BLOCK_ROLES`) in block `k`.

        Raises:
            NeedsError: The family has no such part.
        """
        if role not in self.roles:
            raise NeedsError(
                f"{role!r} of a block is asked of a {self.model_type} model, which has none",
                "models with attention blocks: " + ", ".join(name for name, f in FAMILIES.items() if f.roles),
                "use hidden or response knowledge for this model",
            )
        return self.block(model, k).get_submodule(self.roles[role])

    def attention(self, model: nn.Module, k: int) -> tuple[nn.Linear, nn.Linear, nn.Linear, int]:
        """The query, key and value projections of block `k`, and its number of heads.

        Raises:
            NeedsError: The model has no attention, or no such block.
        """
        query, key, value = (self.part(model, k, role) for role in ("query", "key", "value"))
        return query, key, value, query.out_features // head_size(self, model.config)

    def embedding(self, model: nn.Module) -> nn.Module:
        """The module whose output enters block 1 (``hidden:0``)."""
        return _first(self.base(model), self.embedding_paths, "embedding", self.model_type)

    def head(self, model: nn.Module) -> nn.Linear:
        """The final linear layer.

        Raises:
            NeedsError: The model is a bare encoder without a head.
        """
        return _first(model, self.head_paths, "classification head", self.model_type)

    def pooler(self, model: nn.Module) -> nn.Linear | None:
        """The linear layer before the final one, or None where the model has none (as for an answer per token)."""
        modules = dict(model.named_modules())
        return next((modules[path] for path in self.pooler_paths if path in modules), None)  # type: ignore[return-value]

    def class_like(self, teacher: nn.Module) -> str:
        """Name of this family's class with the teacher's kind of head: for texts ``…ForTokenClassification`` and so on."""
        head = re.search(r"For[A-Z]\w*$", type(teacher).__name__) if self.modality == "text" else None
        return self.architecture if head is None else re.sub(r"For[A-Z]\w*$", head.group(), self.architecture)

    def size(self, config: PreTrainedConfig, name: str) -> Any:
        """The shape `name` ("hidden", "ffn", "layers", "heads", …) in a configuration."""
        return getattr(config, self.config_keys[name]) if self.size_of is None else self.size_of(config, name)


def head_size(family: Family, config: Any) -> int:
    """Units per attention head, which cutting heads does not change."""
    explicit = getattr(config, "head_dim", None)
    return int(explicit or family.size(config, "hidden") // family.size(config, "heads"))


def family_of(model: nn.Module | PreTrainedConfig | str) -> Family:
    """The family of a model, a configuration or a `model_type`.

    Raises:
        ModelError: The model type is not supported; the message lists those that are.

    Example:
        >>> family_of("bert").roles["query"]
        'attention.self.query'
    """
    model_type = model if isinstance(model, str) else getattr(getattr(model, "config", model), "model_type", "")
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    raise ModelError(
        f"model type {model_type or type(model).__name__!r} is not one that Potstill can cut or tap by role",
        ", ".join(sorted(FAMILIES)),
        "take a teacher of one of these types, or name a student model and use response losses only",
    )


def _first(root: nn.Module, paths: tuple[str, ...], what: str, model_type: str) -> Any:
    modules = dict(root.named_modules())
    for path in paths:
        if path in modules:
            return modules[path]
    raise NeedsError(
        f"this {model_type} model ({type(root).__name__}) has no {what}",
        f"a model with one of: {', '.join(paths)}",
        "load it with the Auto class of its task, for example AutoModelForSequenceClassification",
    )


_BERT_ROLES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}
_DISTILBERT_ROLES = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "output_norm": "output_layer_norm",
}
_VIT_ROLES = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "attention_output": "attention.o_proj",
    "attention_norm": "layernorm_before",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "output_norm": "layernorm_after",
}
_ENCODER_KEYS = {
    "hidden": "hidden_size",
    "ffn": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
}


def _bert_like(model_type: str, architecture: str, *, own_pooler: bool, padded_positions: bool, activation: str) -> Family:
    return Family(
        model_type=model_type,
        modality="text",
        structure="post-norm",
        blocks_path="encoder.layer",
        roles=_BERT_ROLES,
        embedding_paths=("embeddings_project", "embeddings"),
        head_paths=(*(() if own_pooler else ("classifier.out_proj",)), "classifier", "qa_outputs", "sentence_head"),
        pooler_paths=("bert.pooler.dense",) if own_pooler else ("classifier.dense",),
        pooler_activation=activation,
        config_keys=_ENCODER_KEYS,
        architecture=architecture,
        position_offset_is_padding=padded_positions,
    )


def _vit_like(model_type: str, architecture: str) -> Family:
    return Family(
        model_type=model_type,
        modality="image",
        structure="pre-norm",
        blocks_path="layers",
        roles=_VIT_ROLES,
        embedding_paths=("embeddings",),
        head_paths=("classifier",),
        pooler_paths=(),
        pooler_activation="",
        config_keys=_ENCODER_KEYS,
        architecture=architecture,
    )


_DISTILBERT = Family(
    model_type="distilbert",
    modality="text",
    structure="post-norm",
    blocks_path="transformer.layer",
    roles=_DISTILBERT_ROLES,
    embedding_paths=("embeddings",),
    head_paths=("classifier", "qa_outputs", "sentence_head"),
    pooler_paths=("pre_classifier",),
    pooler_activation="relu",
    config_keys={"hidden": "dim", "ffn": "hidden_dim", "layers": "n_layers", "heads": "n_heads"},
    architecture="DistilBertForSequenceClassification",
)
_RESNET = Family(
    model_type="resnet",
    modality="image",
    structure="convolution",
    blocks_path="encoder.stages",
    roles={},
    embedding_paths=("embedder",),
    head_paths=("classifier.1",),
    pooler_paths=(),
    pooler_activation="",
    config_keys={"hidden": "hidden_sizes", "layers": "depths"},
    architecture="ResNetForImageClassification",
)
_CONVNEXT = Family(
    model_type="convnext",
    modality="image",
    structure="convolution",
    blocks_path="encoder.stages",
    roles={},
    embedding_paths=("embeddings",),
    head_paths=("classifier",),
    pooler_paths=(),
    pooler_activation="",
    config_keys={"hidden": "hidden_sizes", "layers": "depths"},
    architecture="ConvNextForImageClassification",
)
_MOBILENET_V2 = Family(
    model_type="mobilenet_v2",
    modality="image",
    structure="convolution",
    blocks_path="layer",
    roles={},
    embedding_paths=("conv_stem",),
    head_paths=("classifier",),
    pooler_paths=(),
    pooler_activation="",
    config_keys={"hidden": "", "layers": ""},
    architecture="MobileNetV2ForImageClassification",
    stage_ends=mobilenet_shapes.STAGE_ENDS,
    size_of=mobilenet_shapes.stage_size,
)

FAMILIES: dict[str, Family] = {
    "bert": _bert_like("bert", "BertForSequenceClassification", own_pooler=True, padded_positions=False, activation="tanh"),
    "roberta": _bert_like(
        "roberta", "RobertaForSequenceClassification", own_pooler=False, padded_positions=True, activation="tanh"
    ),
    "xlm-roberta": _bert_like(
        "xlm-roberta", "XLMRobertaForSequenceClassification", own_pooler=False, padded_positions=True, activation="tanh"
    ),
    "electra": _bert_like(
        "electra", "ElectraForSequenceClassification", own_pooler=False, padded_positions=False, activation="gelu"
    ),
    "potstill-encoder": replace(
        _bert_like("potstill-encoder", "CodedForSequenceClassification", own_pooler=False, padded_positions=False, activation=""),
        pooler_paths=(),
    ),
    "distilbert": _DISTILBERT,
    "vit": _vit_like("vit", "ViTForImageClassification"),
    "deit": _vit_like("deit", "DeiTForImageClassification"),
    "resnet": _RESNET,
    "convnext": _CONVNEXT,
    "mobilenet_v2": _MOBILENET_V2,
}
