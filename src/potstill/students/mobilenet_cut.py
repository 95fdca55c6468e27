"""Copy the most important channels of a MobileNetV2 into a narrower one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.families import family_of
from potstill.students.importance import Importance
from potstill.students.mobilenet_shapes import STRIDES, widths
from potstill.students.resnet_cut import ChannelScores, copy_convolution


@torch.no_grad()
def cut_mobilenet(teacher: PreTrainedModel, student: PreTrainedModel, importance: Importance | None) -> None:
    """Fill `student` from `teacher`: every convolution keeps its best channels.

    Channels that a residual sum joins are chosen together, by the sum of their scores over the blocks; those inside a block by
    their scores behind both of its inner convolutions.
    """
    scores, kept = ChannelScores(teacher, importance), widths(student.config)
    old_base: Any = teacher.base_model
    new_base: Any = student.base_model
    stem = scores.best(["conv_stem.first_conv.normalization", "conv_stem.conv_3x3.normalization"], kept.stem)
    groups = _joined(widths(teacher.config).blocks)
    chosen = [scores.best([_sum_path(member) for member in groups[block]], kept.blocks[block]) for block in range(len(groups))]
    _copy_stem(old_base.conv_stem, new_base.conv_stem, stem, chosen[0], torch.arange(student.config.num_channels))
    for block, (old, new) in enumerate(zip(old_base.layer, new_base.layer)):
        paths = [f"layer.{block}.{part}.normalization" for part in ("expand_1x1", "conv_3x3")]
        inner = scores.best(paths, kept.inner[block])
        copy_convolution(old.expand_1x1, new.expand_1x1, inner, chosen[block])
        copy_convolution(old.conv_3x3, new.conv_3x3, inner, None)
        copy_convolution(old.reduce_1x1, new.reduce_1x1, chosen[block + 1], inner)
    last = scores.best(["conv_1x1.normalization"], kept.last)
    copy_convolution(old_base.conv_1x1, new_base.conv_1x1, last, chosen[-1])
    old_head, new_head = family_of(teacher).head(teacher), family_of(student).head(student)
    new_head.weight.copy_(old_head.weight[:, last])
    new_head.bias.copy_(old_head.bias)


def _copy_stem(old: Any, new: Any, stem: Tensor, outputs: Tensor, pixels: Tensor) -> None:
    copy_convolution(old.first_conv, new.first_conv, stem, pixels)
    if old.expand_1x1 is not None:
        copy_convolution(old.expand_1x1, new.expand_1x1, stem, stem)
    copy_convolution(old.conv_3x3, new.conv_3x3, stem, None)
    copy_convolution(old.reduce_1x1, new.reduce_1x1, outputs, stem)


def _joined(channels: tuple[int, ...]) -> list[list[int]]:
    """For the stem (0) and each block (1 …) the numbers of those whose outputs are summed with its own."""
    groups = [[0]]
    for block, stride in enumerate(STRIDES, start=1):
        is_residual = stride == 1 and channels[block - 1] == channels[block]
        groups.append([*groups[-1], block] if is_residual else [block])
    for block in reversed(range(len(groups) - 1)):
        if groups[block + 1][0] == groups[block][0]:
            groups[block] = groups[block + 1]
    return groups


def _sum_path(member: int) -> str:
    return "conv_stem.reduce_1x1.normalization" if member == 0 else f"layer.{member - 1}.reduce_1x1.normalization"
