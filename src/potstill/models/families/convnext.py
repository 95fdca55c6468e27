"""ConvNeXt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.models.families.base import copy_linear, copy_norm, pair
from potstill.models.families.stages import Stages, best_channels

KERNEL, EXPANSION = 7, 4


class ConvNext(Stages):
    """ConvNeXt."""

    model_type = "convnext"
    architecture = "ConvNextForImageClassification"
    embedding_paths = ("embeddings",)
    sketched = ("patch_size", "layer_scale_init_value")

    def strides(self, config: Any) -> tuple[int, ...]:
        """Patches first, then each stage halves the grid."""
        return tuple(pair(config.patch_size)[0] * 2**stage for stage in range(len(config.depths)))

    def parameters(self, config: Any) -> int:
        """Patches, stages, last norm and final layer."""
        sizes, scale = list(config.hidden_sizes), 1 if config.layer_scale_init_value > 0 else 0
        height, width = pair(config.patch_size)
        total = sizes[0] * (config.num_channels * height * width + 3)
        for number, (outputs, depth) in enumerate(zip(sizes, config.depths)):
            inputs = sizes[max(0, number - 1)]
            if number > 0:
                total += 2 * inputs + 4 * inputs * outputs + outputs
            block = outputs * (KERNEL**2 + 1) + 2 * outputs + EXPANSION * outputs * (2 * outputs + 1) + outputs + scale * outputs
            total += depth * block
        return int(total + 2 * sizes[-1] + sizes[-1] * config.num_labels + config.num_labels)

    def multiply_adds(self, config: Any, image_size: int) -> int:
        """Of patches, stages and final layer."""
        sizes = list(config.hidden_sizes)
        height, width = pair(config.patch_size)
        side = image_size // height
        total = side**2 * sizes[0] * config.num_channels * height * width
        for number, (outputs, depth) in enumerate(zip(sizes, config.depths)):
            if number > 0:
                side //= 2
                total += side**2 * 4 * sizes[number - 1] * outputs
            total += depth * side**2 * outputs * (KERNEL**2 + 2 * EXPANSION * outputs)
        return int(total + sizes[-1] * config.num_labels)

    def scored_modules(self, model: nn.Module) -> list[tuple[str, nn.Module, int]]:
        """What enters a residual sum, and the inner units of the blocks."""
        found: list[tuple[str, nn.Module, int]] = []
        for name, module in model.named_modules():
            if name.endswith(("patch_embeddings", "downsampling_layer.1")):
                found.append((name, module, 1))
            elif name.endswith(("pwconv1", "pwconv2")):
                found.append((name, module, -1))
        return found

    @torch.no_grad()
    def copy_channels(self, teacher: Any, student: Any, scores: Mapping[str, np.ndarray] | None) -> None:
        """All channels of a stage meet in one residual sum, so they are chosen together, by their scores over the blocks."""
        old_base, new_base = self.base(teacher), self.base(student)
        inputs = torch.arange(student.config.num_channels)
        prefix = f"{teacher.base_model_prefix}."
        for stage, (old, new) in enumerate(zip(old_base.encoder.stages, new_base.encoder.stages)):
            entry = "embeddings.patch_embeddings" if stage == 0 else f"encoder.stages.{stage}.downsampling_layer.1"
            paths = [entry, *(f"encoder.stages.{stage}.layers.{block}.pwconv2" for block in range(len(old.layers)))]
            sizes = student.config.hidden_sizes[stage], teacher.config.hidden_sizes[stage]
            outputs = _best(scores, [prefix + path for path in paths], *sizes)
            if stage == 0:
                _copy(old_base.embeddings.patch_embeddings, new_base.embeddings.patch_embeddings, outputs, inputs)
                copy_norm(old_base.embeddings.layernorm, new_base.embeddings.layernorm, outputs)
            else:
                copy_norm(old.downsampling_layer[0], new.downsampling_layer[0], inputs)
                _copy(old.downsampling_layer[1], new.downsampling_layer[1], outputs, inputs)
            for block, (old_block, new_block) in enumerate(zip(old.layers, new.layers)):
                path = f"{prefix}encoder.stages.{stage}.layers.{block}.pwconv1"
                units = _best(scores, [path], new_block.pwconv1.out_features, old_block.pwconv1.out_features)
                _copy_block(old_block, new_block, outputs, units)
            inputs = outputs
        copy_norm(old_base.layernorm, new_base.layernorm, inputs)
        self._copy_head(teacher, student, inputs)


def _best(scores: Mapping[str, np.ndarray] | None, paths: Sequence[str], kept: int, whole: int) -> Tensor:
    if kept == whole or scores is None:
        return torch.arange(kept)
    return best_channels([scores[path] for path in paths], kept)


def _copy_block(old: Any, new: Any, channels: Tensor, units: Tensor) -> None:
    new.dwconv.weight.copy_(old.dwconv.weight[channels])
    new.dwconv.bias.copy_(old.dwconv.bias[channels])
    copy_norm(old.layernorm, new.layernorm, channels)
    copy_linear(old.pwconv1, new.pwconv1, units, channels)
    copy_linear(old.pwconv2, new.pwconv2, channels, units)
    if old.layer_scale_parameter is not None and new.layer_scale_parameter is not None:
        new.layer_scale_parameter.copy_(old.layer_scale_parameter[channels])


def _copy(old: nn.Conv2d, new: nn.Conv2d, outputs: Tensor, inputs: Tensor) -> None:
    new.weight.copy_(old.weight[outputs][:, inputs])
    if old.bias is not None and new.bias is not None:
        new.bias.copy_(old.bias[outputs])
