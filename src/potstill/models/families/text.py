"""The base of encoders of texts: tables of tokens, positions and token types, a norm, then blocks that end with a norm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from potstill.models.families import family_of
from potstill.models.families.base import Family, copy_linear, copy_norm
from potstill.models.families.encoder import EmbeddingFacts, Encoder, Shape
from potstill.models.families.narrow import EmbeddingTarget, Pairs, fit_narrow, principal_start, regress_projection


class TextEncoder(Encoder):
    """The base of encoders of texts: tables of tokens, positions and token types, a norm, blocks that end with a norm."""

    modality = "text"
    build = "post-norm"
    fusion = "bert"
    blocks_path = "encoder.layer"
    embedding_paths: tuple[str, ...] = ("embeddings",)
    head_paths: tuple[str, ...] = ("classifier", "qa_outputs", "sentence_head")
    cuts_vocabulary = True
    scores_by_output = True
    narrow_type: str | None = "electra"
    coded_type: str | None = "potstill-encoder"
    projects_before_norm = False  # whether the projection of a narrow token table stands before the norm or behind it
    shared_keys: Mapping[str, str] = MappingProxyType(  # what encoders of texts have in common → this type's key
        {
            "hidden_act": "hidden_act",
            "hidden_dropout_prob": "hidden_dropout_prob",
            "attention_probs_dropout_prob": "attention_probs_dropout_prob",
        }
    )

    def class_like(self, teacher: nn.Module) -> str:
        """``…ForTokenClassification`` for a teacher that is one, and so on."""
        head = re.search(r"For[A-Z]\w*$", type(teacher).__name__)
        return self.architecture if head is None else re.sub(r"For[A-Z]\w*$", head.group(), self.architecture)

    def shape_of(self, config: Any) -> Shape:
        """With the vocabulary and the width of its table."""
        plain = super().shape_of(config)
        embedding = int(getattr(config, "embedding_size", None) or plain.hidden)
        return Shape(plain.layers, plain.hidden, plain.heads, plain.ffn, embedding, config.vocab_size)

    def with_shape(self, config: Any, shape: Shape) -> Any:
        """With the vocabulary, and the width of its table where the type has one."""
        changed = super().with_shape(config, shape)
        changed.vocab_size = shape.vocabulary
        if hasattr(changed, "embedding_size"):
            changed.embedding_size = shape.embedding
        return changed

    def converted(self, source: Family, config: Any) -> Any:
        """A configuration of this type like one of another family of the same build, positions counted from 0.

        Args:
            source: The other family.
            config: Its configuration, not changed.
        """
        if source is self:
            return config
        assert isinstance(source, TextEncoder)
        sizes = {key: source.size(config, name) for name, key in self.config_keys.items()}
        shared = {name: getattr(config, key) for name, key in source.shared_keys.items()}
        tokens = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
        same = (*tokens, "initializer_range", "problem_type", "architectures")
        values = {
            **sizes,
            **shared,
            **{name: getattr(config, name) for name in same},
            "classifier_dropout": getattr(config, "classifier_dropout", None),
            "layer_norm_eps": getattr(config, "layer_norm_eps", 1e-12),
            "max_position_embeddings": config.max_position_embeddings - source.position_offset(config),
            "id2label": dict(config.id2label),
            "label2id": dict(config.label2id),
        }
        return AutoConfig.for_model(self.model_type, **(values | self._own_values(source, config)))

    def _own_values(self, source: Family, config: Any) -> dict[str, Any]:
        """Keys that only this type has, for a configuration like the source's."""
        return {"type_vocab_size": max(2, getattr(config, "type_vocab_size", 0)), "embedding_size": source.size(config, "hidden")}

    def has_pooler(self, config: Any) -> bool:
        """Whether there is a layer between the encoder and the final one: not where each token is answered for."""
        heads = getattr(config, "architectures", None) or ()
        return not any(
            name.endswith(("ForTokenClassification", "ForQuestionAnswering", "ForSentenceEmbedding")) for name in heads
        )

    def outer_parameters(self, config: Any, shape: Shape) -> Any:
        """Embeddings, their projection, pooler (where there is one) and final layer."""
        hidden, embedding = shape.hidden, shape.embedding
        rows = shape.vocabulary + config.max_position_embeddings + getattr(config, "type_vocab_size", 0) + 2
        projection = (embedding * hidden + hidden) * (embedding != hidden)
        return rows * embedding + projection + self._head_parameters(config, hidden)

    def _head_parameters(self, config: Any, hidden: Any) -> Any:
        return (hidden * hidden + hidden) * self.has_pooler(config) + hidden * config.num_labels + config.num_labels

    def flops(self, config: Any, *, tokens: int = 128, image_size: int = 224) -> int:
        """Of a text."""
        shape = self.shape_of(config)
        hidden, embedding = shape.hidden, shape.embedding
        answer = hidden * config.num_labels
        head = hidden * hidden + answer if self.has_pooler(config) else tokens * answer
        projection = tokens * embedding * hidden if embedding != hidden else 0
        return int(2 * (shape.layers * self._layer_multiply_adds(config, shape, tokens) + projection + head))

    def embedded(self, model: Any, ids: Tensor, positions: Tensor, types: Tensor) -> Tensor:
        """The embedding output [N, H] of tokens [N] at positions [N] (from 0) with token types [N]."""
        norm, project = self.base(model).embeddings.LayerNorm, self.projection(model)
        value = self.summed(model, ids, positions, types)
        if project is None:
            return norm(value)
        return norm(project(value)) if self.projects_before_norm else project(norm(value))

    def summed(self, model: Any, ids: Tensor, positions: Tensor, types: Tensor) -> Tensor:
        """The sum [N, E] of the rows of the tables."""
        tables = self.base(model).embeddings
        places, kinds = (getattr(tables, f"{name}_embeddings", None) for name in ("position", "token_type"))
        value = tables.word_embeddings.weight[ids]
        if places is not None:
            value = value + places.weight[positions + self.position_offset(model.config)]
        if kinds is not None:
            value = value + kinds.weight[types.clamp(max=kinds.num_embeddings - 1)]
        return value

    def projection(self, model: Any) -> nn.Linear | None:
        """From a narrow embedding to the width of the blocks; None where there is none."""
        return getattr(self.base(model), "embeddings_project", None)

    def fill_embeddings(self, teacher: Any, student: Any, hidden: Tensor, kept: EmbeddingFacts) -> float | None:
        """Rows are copied where both have the same form of table, else a narrow one is fitted."""
        old = family_of(teacher)
        assert isinstance(old, TextEncoder)
        narrow = [getattr(family.projection(model), "in_features", None) for family, model in ((old, teacher), (self, student))]
        if type(teacher) is not type(student) or narrow[0] != narrow[1]:
            return fit_narrow(old, teacher, self, student, hidden, kept)
        self._gather(teacher, student, kept.ids, hidden)
        return None

    def start_narrow(
        self, student: Any, target: EmbeddingTarget, weights: Tensor, root: Tensor, generator: torch.Generator
    ) -> None:
        """First values of narrow tables and of their projection, before they are fitted to the target."""
        tables = self.base(student).embeddings
        principal_start(tables, target, weights / weights.sum(), root, generator)

        def normed(pairs: Pairs) -> Tensor:
            value: Tensor = tables.LayerNorm(self.summed(student, *pairs))
            return value

        regress_projection(self.projection(student), normed, target, weights, generator)

    @torch.no_grad()
    def _gather(self, teacher: Any, student: Any, ids: Tensor, hidden: Tensor) -> None:
        source, target = self.base(teacher).embeddings, self.base(student).embeddings
        projection, own = self.projection(teacher), self.projection(student)
        units = hidden if projection is None else torch.arange(source.word_embeddings.embedding_dim)
        target.word_embeddings.weight.copy_(source.word_embeddings.weight[ids][:, units])
        for name in ("position_embeddings", "token_type_embeddings"):
            if getattr(source, name, None) is not None:
                getattr(target, name).weight.copy_(getattr(source, name).weight[:, units])
        copy_norm(source.LayerNorm, target.LayerNorm, hidden if self.projects_before_norm else units)
        if projection is not None and own is not None:
            copy_linear(projection, own, hidden, units)
