"""DeBERTa-v2 and v3: BERT's blocks whose attention also weighs how far apart two tokens are.

*Source*: He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", https://arxiv.org/abs/2006.03654; v3:
https://arxiv.org/abs/2111.09543. ``hidden:1`` of v2's largest is the state before its convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from potstill.models.families.base import copy_norm
from potstill.models.families.bert import Bert
from potstill.models.families.encoder import EmbeddingFacts, Shape, split_heads
from potstill.models.families.narrow import EmbeddingTarget


class DebertaV2(Bert):
    """DeBERTa-v2 and v3; the type takes narrow token tables itself, so that every student keeps the relative positions."""

    model_type = "deberta-v2"
    build = "post-norm with relative positions"
    architecture = "DebertaV2ForSequenceClassification"
    pooler_paths = ("pooler.dense",)
    narrow_type = "deberta-v2"
    coded_type = None
    projects_before_norm = True
    projections = ("query", "key", "value", "position_query", "position_key")
    roles: Mapping[str, str] = MappingProxyType(
        {
            **Bert.roles,
            "query": "attention.self.query_proj",
            "key": "attention.self.key_proj",
            "value": "attention.self.value_proj",
            "position_query": "attention.self.pos_query_proj",
            "position_key": "attention.self.pos_key_proj",
        }
    )

    def with_shape(self, config: Any, shape: Shape) -> Any:
        """With the widths of the token table and of the pooler."""
        changed = super().with_shape(config, shape)
        changed.embedding_size, changed.pooler_hidden_size = shape.embedding, shape.hidden
        return changed

    def projection(self, model: Any) -> nn.Linear | None:
        """Among the embeddings, without a bias."""
        found: nn.Linear | None = self.base(model).embeddings.embed_proj
        return found

    def layer_parameters(self, config: Any, shape: Shape) -> Any:
        """With projections of relative positions, where blocks have their own."""
        attention = shape.heads * self.head_size(config)
        own = 0 if getattr(config, "share_att_key", False) else len(_terms(config))
        return super().layer_parameters(config, shape) + own * (shape.hidden + 1) * attention

    def outer_parameters(self, config: Any, shape: Shape) -> Any:
        """Tables, projection, norms, relative positions, the convolution of v2's largest, pooler and final layer."""
        hidden, embedding = shape.hidden, shape.embedding
        positions = config.max_position_embeddings if config.position_biased_input else 0
        tables = (shape.vocabulary + positions + config.type_vocab_size) * embedding
        projection = embedding * hidden * (embedding != hidden)
        relative = (_relative_rows(config) + 2 * _norms_relative(config)) * hidden
        kernel = getattr(config, "conv_kernel_size", 0)
        convolution = (kernel * hidden // getattr(config, "conv_groups", 1) + 3) * hidden if kernel > 0 else 0
        return tables + projection + 2 * hidden + relative + convolution + self._head_parameters(config, hidden)

    def _layer_multiply_adds(self, config: Any, shape: Shape, tokens: int) -> int:
        """With relative positions: projected once for a batch, here for its only row, and compared with every token."""
        attention, rows, terms = shape.heads * self.head_size(config), _relative_rows(config), len(_terms(config))
        projected = 2 if getattr(config, "share_att_key", False) and rows else terms
        relative = projected * rows * shape.hidden * attention + terms * tokens * rows * attention
        return super()._layer_multiply_adds(config, shape, tokens) + relative

    def fill_embeddings(self, teacher: Any, student: Any, hidden: Tensor, kept: EmbeddingFacts) -> float | None:
        """With the relative positions, and the convolution behind the first block."""
        explained = super().fill_embeddings(teacher, student, hidden, kept)
        source, target = self.base(teacher).encoder, self.base(student).encoder
        with torch.no_grad():
            if source.relative_attention:
                target.rel_embeddings.weight.copy_(source.rel_embeddings.weight[:, hidden])
            if _norms_relative(teacher.config):
                copy_norm(source.LayerNorm, target.LayerNorm, hidden)
            if source.conv is not None:
                target.conv.conv.weight.copy_(source.conv.conv.weight[hidden][:, hidden])
                target.conv.conv.bias.copy_(source.conv.conv.bias[hidden])
                copy_norm(source.conv.LayerNorm, target.conv.LayerNorm, hidden)
        return explained

    @torch.no_grad()
    def start_narrow(
        self, student: Any, target: EmbeddingTarget, weights: Tensor, root: Tensor, generator: torch.Generator
    ) -> None:
        """The best tables of their rank: those whose projection is nearest to the teacher's rows, in the metric of `root`."""
        tables, source, root = self.base(student).embeddings, self.base(target.teacher).embeddings, root.double()
        share = (weights / weights.sum())[:, None]

        def rows(name: str) -> Tensor:
            found = getattr(source, name).weight
            wide = found if source.embed_proj is None else source.embed_proj(found)
            return wide[:, target.hidden].double()

        words = rows("word_embeddings")[target.ids]
        seen = words @ root
        directions = torch.linalg.eigh(seen.T @ (share * seen)).eigenvectors[:, -tables.word_embeddings.embedding_dim :]
        into = root @ directions
        scale = ((words @ into).square() * share).sum(0).mean().sqrt().clamp(min=1e-6)
        tables.word_embeddings.weight.copy_(words @ into / scale)
        for name in ("position_embeddings", "token_type_embeddings"):
            if getattr(tables, name) is not None:
                getattr(tables, name).weight.copy_(rows(name) @ into / scale)
        tables.embed_proj.weight.copy_(torch.linalg.solve(root, directions) * scale)
        copy_norm(source.LayerNorm, tables.LayerNorm, target.hidden)

    def tapped(self, model: nn.Module, k: int, need: str) -> dict[str, tuple[nn.Module, bool]]:
        """The input of the attention: a projection may run twice in a forward, for states and for relative positions."""
        return {"states": (self.block(model, k).get_submodule("attention.self"), True)}

    def read(self, model: Any, k: int, need: str, values: Mapping[str, Tensor]) -> Tensor:
        """Projected states; scores are content to content, content to position and position to content."""
        states, config = values["states"], model.config
        size = self.head_size(config)
        if need != "attention":
            return split_heads(self.part(model, k, need)(states), size)
        encoder, attention = self.base(model).encoder, self.block(model, k).get_submodule("attention.self")
        query, key = (split_heads(self.part(model, k, name)(states), size).flatten(0, 1) for name in ("query", "key"))
        factor = 1 + len(config.pos_att_type or ())
        scores = torch.bmm(query, key.transpose(-1, -2)) / math.sqrt(size * factor)
        if encoder.relative_attention:
            places = encoder.get_rel_pos(states)
            biases: Any = attention.disentangled_attention_bias  # type: ignore[operator]
            scores = scores + biases(query, key, places, encoder.get_rel_embedding(), factor)
        return scores.unflatten(0, (len(states), -1))


def _terms(config: Any) -> list[str]:
    """The kinds of relative terms: content to position, position to content."""
    kinds = config.pos_att_type or []
    return [kind for kind in ("c2p", "p2c") if kind in kinds] if config.relative_attention else []


def _relative_rows(config: Any) -> int:
    if not config.relative_attention:
        return 0
    farthest = config.max_relative_positions if config.max_relative_positions > 0 else config.max_position_embeddings
    buckets = getattr(config, "position_buckets", -1)
    return 2 * (buckets if buckets > 0 else farthest)


def _norms_relative(config: Any) -> bool:
    return "layer_norm" in str(getattr(config, "norm_rel_ebd", "none")).lower().split("|")
