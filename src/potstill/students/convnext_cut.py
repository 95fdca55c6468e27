"""Copy the most important channels of a ConvNeXt into a narrower, shallower one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.models.families import family_of
from potstill.students.encoder_cut import copy_linear, copy_norm
from potstill.students.importance import Importance


@torch.no_grad()
def cut_convnext(teacher: PreTrainedModel, student: PreTrainedModel, importance: Importance | None) -> None:
    """Fill `student` from `teacher`: every stage keeps its first blocks, its best channels, and their best inner units.

    All channels of a stage meet in one residual sum, so they are chosen together, by the sum of their scores over the blocks.
    """
    old_base: Any = teacher.base_model
    new_base: Any = student.base_model
    inputs = torch.arange(student.config.num_channels)
    prefix = f"{teacher.base_model_prefix}."
    for stage, (old, new) in enumerate(zip(old_base.encoder.stages, new_base.encoder.stages)):
        entry = "embeddings.patch_embeddings" if stage == 0 else f"encoder.stages.{stage}.downsampling_layer.1"
        paths = [entry, *(f"encoder.stages.{stage}.layers.{block}.pwconv2" for block in range(len(old.layers)))]
        outputs = _best(importance, [prefix + path for path in paths], *_sizes(teacher, student, stage))
        if stage == 0:
            _copy(old_base.embeddings.patch_embeddings, new_base.embeddings.patch_embeddings, outputs, inputs)
            copy_norm(old_base.embeddings.layernorm, new_base.embeddings.layernorm, outputs)
        else:
            copy_norm(old.downsampling_layer[0], new.downsampling_layer[0], inputs)
            _copy(old.downsampling_layer[1], new.downsampling_layer[1], outputs, inputs)
        for block, (old_block, new_block) in enumerate(zip(old.layers, new.layers)):
            path = f"{prefix}encoder.stages.{stage}.layers.{block}.pwconv1"
            units = _best(importance, [path], new_block.pwconv1.out_features, old_block.pwconv1.out_features)
            _copy_block(old_block, new_block, outputs, units)
        inputs = outputs
    copy_norm(old_base.layernorm, new_base.layernorm, inputs)
    old_head, new_head = family_of(teacher).head(teacher), family_of(student).head(student)
    copy_linear(old_head, new_head, torch.arange(new_head.out_features), inputs)


def _best(importance: Importance | None, paths: Sequence[str], kept: int, whole: int) -> Tensor:
    if kept == whole or importance is None:
        return torch.arange(kept)
    total = np.sum([importance.channels[path] for path in paths], axis=0)
    return torch.as_tensor(np.sort(np.argsort(-total, kind="stable")[:kept]))


def _sizes(teacher: Any, student: Any, stage: int) -> tuple[int, int]:
    return student.config.hidden_sizes[stage], teacher.config.hidden_sizes[stage]


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
