"""The base of decoder families: every weight by the axes that it spans, from which counts and cuts follow.

Axes: ``hidden`` the residual stream, ``ffn`` neurons, ``query`` and ``key`` units of query heads and of key (or value) heads,
``vocabulary``; ``query_key_value``, ``gate_up`` and ``head_by_head`` several of them in one weight; ``heads`` and ``groups`` one
entry a head; ``whole`` never cut. A group is a key-value head with the query heads that read it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError

LAYER_LISTS = ("layer_types", "no_rope_layers")  # of a configuration: one entry a layer


@dataclass(frozen=True)
class DecoderShape:
    """One shape of a decoder, or many of them as arrays of the same length.

    Args:
        layers: Blocks.
        hidden: Width of the residual stream.
        groups: Key-value heads of a block, each with its query heads.
        ffn: FFN neurons of a block.
        vocabulary: Entries of the vocabulary.
    """

    layers: Any
    hidden: Any
    groups: Any
    ffn: Any
    vocabulary: Any


@dataclass(frozen=True)
class Heads:
    """What of the heads a cut leaves as it is.

    Args:
        per_group: Query heads that read one key-value head.
        size: Units of a head.
    """

    per_group: int
    size: int


@dataclass(frozen=True)
class Units:
    """What stays of a block: ascending numbers of the teacher's units.

    Args:
        hidden: [H] of the residual stream.
        groups: [G] of key-value heads.
        neurons: [F] of FFN neurons.
        tokens: [V] of the vocabulary.
    """

    hidden: Tensor
    groups: Tensor
    neurons: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Weight:
    """One parameter.

    Args:
        name: In the whole model, with ``{}`` for the number of its block.
        part: Path of its module inside the block, or in the model.
        axes: What each of its dimensions stands for.
        in_block: Whether every block has one.
    """

    name: str
    part: str
    axes: tuple[str, ...]
    in_block: bool

    @property
    def is_norm(self) -> bool:
        """Whether it is the weight of a norm over units that may be cut."""
        return self.axes in (("hidden",), ("query",), ("key",)) and self.name.endswith(".weight")


class DecoderFamily:
    """Decoders whose parts are called alike. Instances hold nothing; `decoder_family_of` gives them."""

    blocks: str = "model.layers"
    outer: Mapping[str, tuple[str, ...]]  # module of the model → axes of its weight, outputs first
    parts: Mapping[str, tuple[str, ...]]  # module of a block → the same
    final_norm: str = "model.norm"
    embedding: str = "model.embed_tokens"
    keys: Mapping[str, str] = MappingProxyType(
        {"hidden": "hidden_size", "ffn": "intermediate_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
    )
    inputs_first = False  # whether the weights of blocks are stored [inputs, outputs]
    norm_offset = 0.0  # what norms add to their weight
    is_square = False  # whether there are as many key as query heads, and all together are as wide as the residual stream
    has_free_heads = True  # whether heads do not change where others are taken out

    def size(self, config: Any, name: str) -> int:
        """``hidden``, ``ffn``, ``layers`` or ``heads`` of a configuration."""
        return int(getattr(config, self.keys[name]))

    def heads(self, config: Any) -> Heads:
        """Query heads of a group, and units of a head."""
        heads = self.size(config, "heads")
        size = getattr(config, "head_dim", None) if not self.is_square else None
        return Heads(heads // self.groups(config), int(size or self.size(config, "hidden") // heads))

    def groups(self, config: Any) -> int:
        """Key-value heads."""
        shared = None if self.is_square else getattr(config, "num_key_value_heads", None)
        return int(shared or self.size(config, "heads"))

    def shape_of(self, config: Any) -> DecoderShape:
        """The shape of a configuration."""
        hidden, ffn, layers = (self.size(config, name) for name in ("hidden", "ffn", "layers"))
        return DecoderShape(layers, hidden, self.groups(config), ffn, int(config.vocab_size))

    def with_shape(self, config: Any, shape: DecoderShape, layers: Sequence[int]) -> Any:
        """A copy of a configuration with another shape; heads keep their size.

        Args:
            layers: The teacher's blocks that stay, 1-based.
        """
        heads, changed = self.heads(config), copy.deepcopy(config)
        for name in ("hidden", "ffn"):
            if getattr(shape, name) != self.size(config, name):
                setattr(changed, self.keys[name], getattr(shape, name))
        setattr(changed, self.keys["heads"], shape.groups * heads.per_group)
        setattr(changed, self.keys["layers"], len(layers))
        if not self.is_square:
            changed.num_key_value_heads, changed.head_dim = shape.groups, heads.size
        changed.vocab_size = shape.vocabulary
        for name in LAYER_LISTS:
            if getattr(config, name, None):
                setattr(changed, name, [getattr(config, name)[k - 1] for k in layers])
        return changed

    def embedding_scale(self, config: Any) -> float:
        """What the model multiplies embeddings by because of its width."""
        return 1.0

    def may_drop_layers(self, config: Any) -> bool:
        """Whether a block computes the same wherever it stands."""
        return True

    def layout(self, model: nn.Module) -> Layout:
        """The family with one model's weights.

        Raises:
            ModelError: The model has weights that are not known here, or blocks that differ.
        """
        found = Layout(self, model)
        found.check()
        return found

    def part_over(self, axis: str) -> str:
        """The part that reads this axis: ``ffn`` gives the projection out of the FFN, ``query`` that out of the attention."""
        return next(part for part, axes in self.parts.items() if len(axes) > 1 and axes[-1] == axis)


class Layout:
    """A model of a family: its weights, what they cost in another shape, and which of their entries a cut keeps."""

    def __init__(self, family: DecoderFamily, model: nn.Module) -> None:
        self.family, self.model = family, model
        self.config: Any = model.config
        self.heads, self.shape = family.heads(self.config), family.shape_of(self.config)
        self._named = dict(model.named_parameters())

    @cached_property
    def weights(self) -> list[Weight]:
        """All weights; those of blocks once."""
        prefix, found = self.family.blocks + ".", []
        for name in self._named:
            in_block = name.startswith(prefix)
            number, _, inner = name.removeprefix(prefix).partition(".") if in_block else ("0", "", name)
            if number != "0":
                continue
            part, _, kind = inner.rpartition(".")
            axes = (self.family.parts if in_block else self.family.outer).get(part)
            if axes is None:
                raise self._unknown(f"the weight {name}")
            if self._named[name].dim() < len(axes):
                axes = axes[:1] if kind == "bias" else axes[-1:]
            elif in_block and self.family.inputs_first:
                axes = axes[::-1]
            found.append(Weight(f"{prefix}{{}}.{inner}" if in_block else name, part, axes, in_block))
        return found

    def check(self) -> None:
        """Make sure that every weight is as large as its axes say, in every block."""
        places = {weight.name.format(k) for weight in self.weights for k in range(self.shape.layers if weight.in_block else 1)}
        other = sorted(set(self._named) ^ places)
        if other:
            raise self._unknown(f"blocks that differ ({other[0]})")
        for weight in self.weights:
            expected = tuple(self.axis_size(axis, self.shape) for axis in weight.axes)
            for k in range(self.shape.layers if weight.in_block else 1):
                found = tuple(self._named[weight.name.format(k)].shape)
                if any(size is not None and size != own for size, own in zip(expected, found)):
                    raise self._unknown(f"{weight.name.format(k)} of shape {found}")

    def _unknown(self, what: str) -> ModelError:
        return ModelError(
            f"{type(self.model).__name__} has {what}, which is not known here, so that no student can be cut out of it",
            "a dense decoder as transformers builds it, without adapters or quantized weights",
            "name the student: --student FOLDER_OR_HUB_ID, a smaller model with the same tokenizer",
        )

    def axis_size(self, axis: str, shape: DecoderShape) -> Any:
        """Entries along an axis in a shape; None for one that is never cut."""
        group = self.heads.per_group * self.heads.size
        sizes = {
            "hidden": shape.hidden,
            "ffn": shape.ffn,
            "gate_up": 2 * shape.ffn,
            "query": shape.groups * group,
            "key": shape.groups * self.heads.size,
            "query_key_value": shape.groups * (group + 2 * self.heads.size),
            "head_by_head": shape.groups * 3 * self.heads.size,
            "heads": shape.groups * self.heads.per_group,
            "groups": shape.groups,
            "vocabulary": shape.vocabulary,
        }
        return sizes.get(axis)

    def parameters(self, shape: DecoderShape) -> Any:
        """Parameters in a shape, or in many."""
        total: Any = 0
        for weight in self.weights:
            count: Any = shape.layers if weight.in_block else 1
            for axis, own in zip(weight.axes, self._named[weight.name.format(0)].shape):
                size = self.axis_size(axis, shape)
                count = count * (own if size is None else size)
            total = total + count
        return total

    def kept(self, axis: str, units: Units) -> Tensor | None:
        """Which entries along an axis stay; None where all do."""
        query = spread(spread(units.groups, self.heads.per_group), self.heads.size)
        key = spread(units.groups, self.heads.size)
        queries, keys = self.axis_size("query", self.shape), self.axis_size("key", self.shape)
        numbers = {
            "hidden": units.hidden,
            "ffn": units.neurons,
            "gate_up": torch.cat([units.neurons, self.shape.ffn + units.neurons]),
            "query": query,
            "key": key,
            "query_key_value": torch.cat([query, queries + key, queries + keys + key]),
            "head_by_head": spread(units.groups, 3 * self.heads.size),
            "heads": spread(units.groups, self.heads.per_group),
            "groups": units.groups,
            "vocabulary": units.tokens,
        }
        return numbers.get(axis)


def spread(numbers: Tensor, size: int) -> Tensor:
    """The units of numbered blocks of `size` units each.

    Example:
        >>> spread(torch.tensor([0, 2]), 3).tolist()
        [0, 1, 2, 6, 7, 8]
    """
    return (numbers[:, None] * size + torch.arange(size)).flatten()
