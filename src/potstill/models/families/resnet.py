"""ResNet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.models.families.stages import ChannelScores, Stages, copy_convolution


class ResNet(Stages):
    """ResNet, of basic or bottleneck blocks."""

    model_type = "resnet"
    architecture = "ResNetForImageClassification"
    embedding_paths = ("embedder",)
    head_paths = ("classifier.1",)
    sketched = ("layer_type", "downsample_in_first_stage", "downsample_in_bottleneck")
    refits_head = False

    def strides(self, config: Any) -> tuple[int, ...]:
        """The stem has four."""
        first = 8 if config.downsample_in_first_stage else 4
        return tuple(first * 2**stage for stage in range(len(config.depths)))

    def parameters(self, config: Any) -> int:
        """Convolutions with their norms, and the final layer."""
        convolved = sum(inputs * outputs * kernel**2 + 2 * outputs for inputs, outputs, kernel, _ in _convolutions(config))
        return int(convolved + config.hidden_sizes[-1] * config.num_labels + config.num_labels)

    def multiply_adds(self, config: Any, image_size: int) -> int:
        """Of the convolutions and the final layer."""
        found = _convolutions(config, image_size)
        spatial = sum(inputs * outputs * kernel**2 * side**2 for inputs, outputs, kernel, side in found)
        return int(spatial + config.hidden_sizes[-1] * config.num_labels)

    @torch.no_grad()
    def copy_channels(self, teacher: Any, student: Any, scores: Mapping[str, np.ndarray] | None) -> None:
        """Channels that a residual sum joins are chosen together, by the sum of their scores over the stage."""
        found = ChannelScores(teacher, scores)
        old_base, new_base = self.base(teacher), self.base(student)
        stem = found.best(["embedder.embedder.normalization"], student.config.embedding_size)
        copy_convolution(old_base.embedder.embedder, new_base.embedder.embedder, stem, torch.arange(student.config.num_channels))
        inputs = stem
        for stage, (old_stage, new_stage) in enumerate(zip(old_base.encoder.stages, new_base.encoder.stages)):
            outputs = _stage_channels(found, old_stage, stage, inputs, student.config.hidden_sizes[stage])
            for number, (old_block, new_block) in enumerate(zip(old_stage.layers, new_stage.layers)):
                path = f"encoder.stages.{stage}.layers.{number}"
                _copy_block(found, path, old_block, new_block, inputs, outputs)
                inputs = outputs
        self._copy_head(teacher, student, inputs)


def _convolutions(config: Any, image_size: int = 224) -> Iterator[tuple[int, int, int, int]]:
    """Every convolution as (input channels, output channels, kernel, output side in pixels)."""
    side = (image_size - 1) // 2 + 1
    yield config.num_channels, config.embedding_size, 7, side
    side = (side - 1) // 2 + 1
    inputs = config.embedding_size
    for stage, (outputs, depth) in enumerate(zip(config.hidden_sizes, config.depths)):
        for block in range(depth):
            stride = 2 if block == 0 and (stage > 0 or config.downsample_in_first_stage) else 1
            before, side = side, (side - 1) // stride + 1
            if inputs != outputs or stride != 1:
                yield inputs, outputs, 1, side
            yield from _block_convolutions(config, inputs, outputs, before, side)
            inputs = outputs


def _block_convolutions(config: Any, inputs: int, outputs: int, before: int, side: int) -> Iterator[tuple[int, int, int, int]]:
    if config.layer_type == "basic":
        yield inputs, outputs, 3, side
        yield outputs, outputs, 3, side
        return
    inner = outputs // 4
    yield inputs, inner, 1, side if config.downsample_in_bottleneck else before
    yield inner, inner, 3, side
    yield inner, outputs, 1, side


def _stage_channels(scores: ChannelScores, stage_module: Any, stage: int, inputs: Tensor, kept: int) -> Tensor:
    """The stage's output channels; those of its input where the teacher adds the input as it is."""
    if isinstance(stage_module.layers[0].shortcut, nn.Identity) and len(inputs) == kept:
        return inputs
    paths = [f"encoder.stages.{stage}.layers.0.shortcut.normalization"]
    for number, block in enumerate(stage_module.layers):
        paths.append(f"encoder.stages.{stage}.layers.{number}.layer.{len(block.layer) - 1}.normalization")
    return scores.best(paths, kept)


def _copy_block(scores: ChannelScores, path: str, old: Any, new: Any, inputs: Tensor, outputs: Tensor) -> None:
    if not isinstance(new.shortcut, nn.Identity):
        if isinstance(old.shortcut, nn.Identity):
            _select_channels(new.shortcut, inputs, outputs)
        else:
            copy_convolution(old.shortcut, new.shortcut, outputs, inputs)
    before = inputs
    last = len(old.layer) - 1
    for number, (old_layer, new_layer) in enumerate(zip(old.layer, new.layer)):
        width = new_layer.convolution.out_channels
        after = outputs if number == last else scores.best([f"{path}.layer.{number}.normalization"], width)
        copy_convolution(old_layer, new_layer, after, before)
        before = after


def _select_channels(shortcut: Any, inputs: Tensor, outputs: Tensor) -> None:
    """A shortcut that passes on the channels that both sides keep."""
    weight = (outputs[:, None] == inputs[None, :]).float()
    shortcut.convolution.weight.copy_(weight[:, :, None, None])
    shortcut.normalization.running_var.fill_(1.0 - shortcut.normalization.eps)
