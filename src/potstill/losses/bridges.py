"""Bridges: trained projections from the student's width and grid to the teacher's.

Shapes: B batch, T tokens, D width, C channels, H height, W width of a map.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from potstill.errors import NeedsError

Project = Literal["auto", "linear", "none"]
PROJECT_CHOICES = ("auto", "linear", "none")


class Bridge(nn.Module):
    """A linear map over the width of [B, D], [B, T, D], or over the channels of [B, C, H, W] (a 1 × 1 convolution)."""

    def __init__(self, student_width: int, teacher_width: int, *, is_map: bool, bias: bool = True) -> None:
        super().__init__()
        self.layer: nn.Conv2d | nn.Linear
        if is_map:
            self.layer = nn.Conv2d(student_width, teacher_width, 1, bias=bias)
        else:
            self.layer = nn.Linear(student_width, teacher_width, bias=bias)

    def forward(self, values: Tensor) -> Tensor:
        """The projected values; the input is cast to the weights' type where autocast does not do it."""
        return self.layer(values.to(self.layer.weight.dtype))


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Takes its running statistics where a training batch has one value a channel, of which there is no variance."""

    def forward(self, values: Tensor) -> Tensor:
        """The normalised values, channels on the second axis."""
        if self.training and values.numel() < 2 * values.shape[1]:
            return F.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(values)


class VectorNorm(_BatchNorm, nn.BatchNorm1d):
    """A batch norm over [B, D] that takes a batch of a single row."""


class MapNorm(_BatchNorm, nn.BatchNorm2d):
    """A batch norm over [B, C, H, W] that takes a batch of a single position."""


def width_of(shape: tuple[int, ...]) -> int:
    """Channels of a map [B, C, H, W], else the last axis."""
    return shape[1] if len(shape) == 4 else shape[-1]


def positions_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens of [B, T, D], height and width of a map, nothing of [B, D]."""
    return shape[2:] if len(shape) == 4 else shape[1:-1]


def build_bridge(student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], project: str, *, names: str) -> nn.Module:
    """A bridge from the student's width to the teacher's: where they differ ("auto"), always ("linear") or never ("none").

    Raises:
        NeedsError: The widths differ and `project` is "none".
    """
    student_width, teacher_width = width_of(student_shape), width_of(teacher_shape)
    if project == "none" and student_width != teacher_width:
        raise NeedsError(
            f"{names} have widths {student_width} and {teacher_width}, and project is none",
            "equal widths, or a bridge between them",
            "set project: auto, or take a loss without projection such as gram",
        )
    if project == "none" or (project == "auto" and student_width == teacher_width):
        return nn.Identity()
    return Bridge(student_width, teacher_width, is_map=len(student_shape) == 4)


def match_maps(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [B, C, H, W] on the smaller of both grids, by adaptive average pooling; others as they are."""
    if student_map.dim() != 4 or teacher_map.dim() != 4 or student_map.shape[2:] == teacher_map.shape[2:]:
        return student_map, teacher_map
    grid = (min(student_map.shape[2], teacher_map.shape[2]), min(student_map.shape[3], teacher_map.shape[3]))
    return F.adaptive_avg_pool2d(student_map, grid), F.adaptive_avg_pool2d(teacher_map, grid)
