"""Potstill's own encoder: ELECTRA's blocks, token embeddings put together from codes, and attention of any width."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.models.architectures.registration import register
from potstill.models.families import family_of
from potstill.models.families.base import Family, copy_norm
from potstill.models.families.electra import Electra
from potstill.models.families.encoder import EmbeddingFacts, Shape
from potstill.models.families.product_codes import product_codes, rebuilt
from potstill.models.families.text import TextEncoder

CODES = (128, 256, 384, 512, 768, 1024, 1536, 2048)  # how many different pieces a group may have
CODED_VOCABULARY = 2048  # tokens from which on codes are smaller than rows
POSITION_RANK = 32
UNSEEN_COUNT = 0.1  # occurrences that a token is given beyond those in the data, so that unseen ones keep codes of their own


class Coded(Electra):
    """The encoder with coded embeddings, which students of other encoders of texts may be."""

    model_type = "potstill-encoder"
    architecture = "CodedForSequenceClassification"
    embedding_paths = ("embeddings",)
    pooler_paths = ()
    cuts_vocabulary = False  # every token keeps its code
    drops_heads = True

    def code_choices(self, source: Family, config: Any, shape: Shape) -> tuple[int, ...]:
        """How many codes a group of a student's embedding may have; none where the teacher's vocabulary is too small for codes.

        `source`, `config` and `shape` are the teacher's; a coded teacher's students have at most its codes.
        """
        if source is self:
            return (*(number for number in CODES if number < config.codes_per_group), config.codes_per_group)
        if shape.embedding != shape.hidden or shape.vocabulary < CODED_VOCABULARY:
            return ()
        return tuple(number for number in CODES if 2 * number <= shape.vocabulary)

    def shape_of(self, config: Any) -> Shape:
        """With its codes."""
        plain = super().shape_of(config)
        sizes = plain.layers, plain.hidden, plain.heads, plain.ffn, plain.hidden, plain.vocabulary
        return Shape(*sizes, codes=config.codes_per_group, groups=config.code_groups)

    def with_shape(self, config: Any, shape: Shape) -> Any:
        """With other codes."""
        changed = super().with_shape(config, shape)
        changed.code_groups, changed.codes_per_group = shape.groups, shape.codes
        return changed

    def converted(self, source: Family, config: Any) -> Any:
        """With positions in few directions, and the class known to transformers."""
        register()
        changed = copy.deepcopy(super().converted(source, config))
        changed.position_rank = POSITION_RANK
        return changed

    def _own_values(self, source: Family, config: Any) -> dict[str, Any]:
        assert isinstance(source, TextEncoder)
        types = max(1, getattr(config, "type_vocab_size", 0))
        return {"type_vocab_size": types, "head_dim": source.head_size(config)}

    def inner_sizes(self, config: Any) -> tuple[Any, ...]:
        """Unlike those of any encoder with a table."""
        return (*super().inner_sizes(config), "codes")

    def has_pooler(self, config: Any) -> bool:
        """The final layer reads the first token."""
        return False

    def outer_parameters(self, config: Any, shape: Shape) -> Any:
        """With each code counted as a parameter."""
        hidden, positions, rank = shape.hidden, config.max_position_embeddings, config.position_rank
        tables = shape.codes * hidden + positions * rank + rank * hidden + (config.type_vocab_size + 2) * hidden
        return tables + shape.vocabulary * shape.groups + self._head_parameters(config, hidden)

    @torch.no_grad()
    def fill_embeddings(self, teacher: Any, student: Any, hidden: Tensor, kept: EmbeddingFacts) -> float | None:
        """Codes of the teacher's tokens, its positions in few directions, its token types and its norm."""
        source, target = teacher.base_model.embeddings, student.base_model.embeddings
        if type(source) is type(target) and len(hidden) == source.word_embeddings.embedding_dim and _same_sizes(source, target):
            target.load_state_dict(source.state_dict())
            return None
        table = source.word_embeddings.weight[:, hidden]
        weights = torch.as_tensor(np.sqrt(np.asarray(kept.counts, dtype=np.float64) + UNSEEN_COUNT)).float()
        words = target.word_embeddings
        assigned, tables = product_codes(table, weights, groups=words.groups, codes=words.codes_per_group, metric=kept.metric)
        words.fill(assigned, tables)
        offset = family_of(teacher).position_offset(teacher.config)
        target.position_embeddings.fill(source.position_embeddings.weight[offset:][:, hidden])
        target.token_type_embeddings.weight.zero_()
        if hasattr(source, "token_type_embeddings"):
            target.token_type_embeddings.weight.copy_(source.token_type_embeddings.weight[:, hidden])
        copy_norm(source.LayerNorm, target.LayerNorm, hidden)
        lost = ((rebuilt(assigned, tables) - table).square().sum(1) * weights).sum()
        spread = ((table - table.mean(0)).square().sum(1) * weights).sum().clamp(min=1e-12)
        return float(1 - lost / spread)


def _same_sizes(source: nn.Module, target: nn.Module) -> bool:
    sizes = [{name: value.shape for name, value in module.state_dict().items()} for module in (source, target)]
    return sizes[0] == sizes[1]
