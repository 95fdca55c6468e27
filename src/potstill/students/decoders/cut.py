"""Decoders cut out of decoders: whole blocks, groups of heads, neurons, hidden units and entries of the vocabulary, copied.

Shapes: D width, G groups, F neurons, V entries of the vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from potstill.ground.devices import seeded
from potstill.models.families.decoders.base import DecoderShape, Layout, Units
from potstill.students.decoders.importance import DecoderImportance


@dataclass(frozen=True)
class Kept:
    """What of a teacher stays.

    Args:
        layers: The teacher's blocks, 1-based, ascending.
        hidden: [H] units of the residual stream, ascending.
        groups: For each block that stays [G] key-value heads, ascending.
        neurons: The same of FFN neurons.
        tokens: [V] entries of the vocabulary, ascending.
        energies: Path of a norm → [units] the mean square of what it reads; empty where nothing was measured.
    """

    layers: tuple[int, ...]
    hidden: Tensor
    groups: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]
    tokens: Tensor
    energies: Mapping[str, Tensor]

    def units(self, block: int) -> Units:
        """What stays of a block of the student, counted from 0; any stands for the parts outside of the blocks."""
        return Units(self.hidden, self.groups[block], self.neurons[block], self.tokens)


def everything(shape: DecoderShape) -> Kept:
    """A cut that leaves all there is."""
    groups, neurons = torch.arange(shape.groups), torch.arange(shape.ffn)
    layers = tuple(range(1, shape.layers + 1))
    return Kept(
        layers,
        torch.arange(shape.hidden),
        (groups,) * len(layers),
        (neurons,) * len(layers),
        torch.arange(shape.vocabulary),
        {},
    )


def choose(layout: Layout, shape: DecoderShape, scores: DecoderImportance, tokens: Tensor | None = None) -> Kept:
    """The most important parts that a shape has room for.

    Args:
        tokens: [V] entries of the vocabulary that stay; all where left out.
    """
    layers = _top(scores.layers, shape.layers)
    return Kept(
        tuple(int(k) + 1 for k in layers),
        _top(scores.hidden, shape.hidden),
        tuple(_top(scores.groups[k], shape.groups) for k in layers),
        tuple(_top(scores.neurons[k], shape.ffn) for k in layers),
        torch.arange(layout.shape.vocabulary) if tokens is None else tokens,
        scores.energies,
    )


def _top(scores: Tensor, count: int) -> Tensor:
    """Numbers of the `count` highest scores, ascending; of equal ones the first."""
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values


@torch.no_grad()
def cut_decoder(layout: Layout, kept: Kept) -> Any:
    """A plain model of the teacher's type with what stays of it; the teacher is not changed.

    The weights of a norm over fewer units are multiplied by what makes up for the other mean square of its input, so that what
    stays is as large behind the norm as it was; of embeddings that are scaled by the width likewise.
    """
    family, teacher = layout.family, layout.model
    shape = DecoderShape(len(kept.layers), len(kept.hidden), len(kept.groups[0]), len(kept.neurons[0]), len(kept.tokens))
    config = family.with_shape(layout.config, shape, kept.layers)
    source = dict(teacher.named_parameters())
    with seeded(0):  # what is drawn is overwritten
        student = AutoModelForCausalLM.from_config(config, dtype=next(iter(source.values())).dtype).eval()
    target = dict(student.named_parameters())
    for weight in layout.weights:
        for block, k in enumerate(kept.layers if weight.in_block else (1,)):
            old, new = weight.name.format(k - 1), weight.name.format(block)
            value = source[old].detach().cpu()
            for dimension, axis in enumerate(weight.axes):
                numbers = layout.kept(axis, kept.units(block))
                if numbers is not None and len(numbers) < value.shape[dimension]:
                    value = value.index_select(dimension, numbers)
            if weight.is_norm and numbers is not None:
                gain = _gain(kept.energies.get(old.removesuffix(".weight")), numbers)
                value = (value + family.norm_offset) * gain - family.norm_offset
            target[new].copy_(value)
    _rescale(layout, student, family.embedding_scale(layout.config) / family.embedding_scale(config))
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student


def _gain(energy: Tensor | None, kept: Tensor) -> float:
    """By what a norm's output shrinks when it reads the kept units alone."""
    if energy is None or len(kept) == len(energy):
        return 1.0
    return float((energy[kept].mean() / energy.mean().clamp(min=1e-30)).sqrt())


def _rescale(layout: Layout, student: Any, factor: float) -> None:
    """Make up for another scale of the embeddings, and where the head has the same weights, before it."""
    if factor == 1.0:
        return
    family = layout.family
    student.get_input_embeddings().weight.mul_(factor)
    if student.get_output_embeddings().weight is student.get_input_embeddings().weight:
        norm: Any = student.get_submodule(family.final_norm)
        norm.weight.add_(family.norm_offset).div_(factor).sub_(family.norm_offset)
