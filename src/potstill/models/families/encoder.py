"""Families of transformer encoders: one width throughout, blocks of attention and feed-forward layers.

Letters: H hidden width, A attention width (heads × head size), F FFN neurons, E embedding width, V vocabulary, T tokens.
Arithmetic on a `Shape` takes numbers or arrays alike, so that a search can weigh many shapes at once.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import NeedsError
from potstill.models.families.base import Family


@dataclass(frozen=True)
class Shape:
    """One encoder shape, or many of them as arrays of the same length; heads and FFN neurons are those of each block.

    Args:
        embedding: Width of the token table; `hidden` unless it is narrow.
        vocabulary: Tokens; 1 for images.
        narrow: Whether the token table is narrower than the teacher's form of it would be.
        codes: Different pieces of each group of a coded embedding; 0 without.
        groups: Pieces that a coded embedding's rows are put together from; 0 without.
    """

    layers: Any
    hidden: Any
    heads: Any
    ffn: Any
    embedding: Any
    vocabulary: Any
    narrow: Any = False
    codes: Any = 0
    groups: Any = 0


@dataclass(frozen=True)
class EmbeddingFacts:
    """What is known when embeddings are filled.

    Args:
        ids: [V] the teacher's id of each of the student's tokens.
        counts: [V] how often the data uses each.
        metric: [H, H] which errors at the teacher's embedding output matter; None where nothing was measured.
        seed: Of everything drawn.
    """

    ids: Tensor
    counts: Any
    metric: Tensor | None
    seed: int


class Encoder(Family):
    """The base of transformer encoders."""

    config_keys: Mapping[str, str] = MappingProxyType(
        {"hidden": "hidden_size", "ffn": "intermediate_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
    )
    projections: tuple[str, ...] = ("query", "key", "value")  # roles from the residual stream into the heads, where they exist
    expansions: tuple[str, ...] = ("up",)  # roles from the residual stream into the FFN
    drops_heads = False  # whether the attention may be narrower than the residual stream
    scores_by_output = False  # whether heads and neurons are chosen by what they add to the output, else by Fisher information
    narrow_type: str | None = None  # the model type of a student with a narrow token table
    coded_type: str | None = None  # the same with a coded one

    def head_size(self, config: Any) -> int:
        """Units per attention head, which cutting heads does not change."""
        return int(getattr(config, "head_dim", None) or self.size(config, "hidden") // self.size(config, "heads"))

    def projections_of(self, model: nn.Module) -> list[str]:
        """Those of `projections` that the blocks of this model have."""
        present = dict(self.block(model, 1).named_modules())
        return [role for role in self.projections if self.roles[role] in present]

    def depth(self, config: Any) -> int:
        """Blocks."""
        return int(self.size(config, "layers"))

    def inner_sizes(self, config: Any) -> tuple[Any, ...]:
        """Width, FFN neurons and heads."""
        return tuple(self.size(config, name) for name in ("hidden", "ffn", "heads"))

    def shape_of(self, config: Any) -> Shape:
        """The shape of a configuration."""
        layers, hidden, heads, ffn = (self.size(config, name) for name in ("layers", "hidden", "heads", "ffn"))
        return Shape(layers, hidden, heads, ffn, hidden, 1)

    def with_shape(self, config: Any, shape: Shape) -> Any:
        """A copy of a configuration of this type with another shape."""
        changed = copy.deepcopy(config)
        for name, key in self.config_keys.items():
            setattr(changed, key, getattr(shape, name))
        if hasattr(changed, "pooler_output_size"):
            changed.pooler_output_size = shape.hidden
        return changed

    def parameters(self, config: Any) -> int:
        """Of the configuration's shape."""
        return int(self.shape_parameters(config, self.shape_of(config)))

    def shape_parameters(self, config: Any, shape: Shape) -> Any:
        """Parameters of a shape, with everything else as the configuration says."""
        return shape.layers * self.layer_parameters(config, shape) + self.outer_parameters(config, shape)

    def layer_parameters(self, config: Any, shape: Shape) -> Any:
        """Parameters of one block."""
        hidden, attention = shape.hidden, shape.heads * self.head_size(config)
        biases = 3 * attention if getattr(config, "qkv_bias", True) else 0
        return 4 * hidden * attention + hidden + biases + self.neuron_parameters(shape) * shape.ffn + hidden + 4 * hidden

    def neuron_parameters(self, shape: Shape) -> Any:
        """Parameters of one FFN neuron of one block."""
        return 2 * shape.hidden + 1

    @abstractmethod
    def outer_parameters(self, config: Any, shape: Shape) -> Any:
        """Parameters outside of the blocks."""

    def _layer_multiply_adds(self, config: Any, shape: Shape, tokens: int) -> int:
        attention = shape.heads * self.head_size(config)
        return int(4 * tokens * shape.hidden * attention + 2 * tokens**2 * attention + 2 * tokens * shape.hidden * shape.ffn)

    @abstractmethod
    def fill_embeddings(self, teacher: Any, student: Any, hidden: Tensor, kept: EmbeddingFacts) -> float | None:
        """Fill the student's embeddings, and what else lies outside of the blocks before the head, from the teacher's.

        Args:
            teacher: Of a family of the same build.
            student: Of this family; filled in place.
            hidden: [H] the teacher's units that stay.
            kept: Which tokens stay and what is known of them.

        Returns:
            The share of the teacher's embedding variance that a fit explains; None where rows are copied.
        """

    # --- knowledge taps

    def tapped(self, model: nn.Module, k: int, need: str) -> dict[str, tuple[nn.Module, bool]]:
        """The modules from which ``attention:k``, ``query:k`` … is read, and whether their input is meant, by name."""
        names = ("query", "key") if need == "attention" else (need,)
        return {name: (self.part(model, k, name), False) for name in names}

    def read(self, model: Any, k: int, need: str, values: Mapping[str, Tensor]) -> Tensor:
        """The tapped value: heads [B, H, T, D], or of ``attention`` the scores before mask and softmax [B, H, T, T]."""
        size = self.head_size(model.config)
        if need != "attention":
            return split_heads(values[need], size)
        query, key = split_heads(values["query"], size), split_heads(values["key"], size)
        if key.shape[1] != query.shape[1]:  # several query heads read each key head
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        return torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(size)


def split_heads(projected: Tensor, head_size: int) -> Tensor:
    """[B, T, H·D] → [B, H, T, D].

    Raises:
        NeedsError: The width is not a multiple of the head size.
    """
    batch, tokens, width = projected.shape
    if width % head_size:
        raise NeedsError(f"a projection of width {width} is to be split into heads of {head_size} units", "a multiple of it")
    return projected.view(batch, tokens, width // head_size, head_size).transpose(1, 2)
