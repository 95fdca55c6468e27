"""MobileNetV2, whose stages are the runs of blocks on one grid, and whose configuration has two factors and no list of widths."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.models.families.stages import ChannelScores, Stages, copy_convolution

# The net at a factor of one: channels of stem and blocks, strides of the blocks (Sandler et al. 2018, arXiv 1801.04381, table 2).
CHANNELS = (16, *(24,) * 2, *(32,) * 3, *(64,) * 4, *(96,) * 3, *(160,) * 3, 320)
STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
STEM, LAST = 32, 1280

WIDTH_WEIGHT = 1.5  # × log2(1 / width scale)
EXPANSION_WEIGHT = 1.0  # × log2(expansion of the teacher / expansion)
DIVISOR_WEIGHT = 0.05  # × log2(divisor of the teacher / divisor): odd widths are slower
TOLERANCE = 0.004
SCALES, EXPANSIONS = 240, (1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)

STAGE_ENDS = (1, 4, 11, 15)  # the last block of each grid, counted from 0
STAGE_DEPTHS = (2, 3, 7, 4)
FACTORS: dict[str, Any] = {
    "depth_multiplier": float,
    "expand_ratio": float,
    "depth_divisible_by": int,
    "min_depth": int,
    "finegrained_output": bool,
}


@dataclass(frozen=True)
class Widths:
    """Channels of a MobileNetV2; `blocks` are those of the stem's output and of each block's, `inner` those inside a block."""

    stem: int
    blocks: tuple[int, ...]
    inner: tuple[int, ...]
    last: int

    @property
    def flat(self) -> tuple[int, ...]:
        """All of them."""
        return (self.stem, *self.blocks, *self.inner, self.last)


class MobileNetV2(Stages):
    """MobileNetV2."""

    model_type = "mobilenet_v2"
    architecture = "MobileNetV2ForImageClassification"
    blocks_path = "layer"
    embedding_paths = ("conv_stem",)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The last block of each stage."""
        found = super().blocks(model)
        return [found[end] for end in STAGE_ENDS]

    def size(self, config: Any, name: str) -> Any:
        """Blocks or channels of the stages."""
        return STAGE_DEPTHS if name == "layers" else tuple(widths(config).blocks[end + 1] for end in STAGE_ENDS)

    def inner_sizes(self, config: Any) -> tuple[Any, ...]:
        """All widths."""
        return widths(config).flat

    def strides(self, config: Any) -> tuple[int, ...]:
        """Up to the configuration's own limit."""
        return tuple(min(stride, int(config.output_stride)) for stride in (4, 8, 16, 32))

    def parameters(self, config: Any) -> int:
        """Of the widths that the configuration stands for."""
        has_expansion = not config.first_layer_is_expansion
        return count(widths(config), config.num_channels, config.num_labels, has_expansion=has_expansion)

    def multiply_adds(self, config: Any, image_size: int) -> int:
        """Of the convolutions and the final layer."""
        found = widths(config)
        spatial = sum(
            inputs * outputs * kernel**2 * side**2 for inputs, outputs, kernel, side in _convolutions(config, found, image_size)
        )
        return spatial + found.last * config.num_labels

    def narrowed(self, config: Any, budget: int, teacher_parameters: int) -> Any:
        """Narrower, and with less expansion inside the blocks."""
        student = copy.deepcopy(config)
        for name, value in best_settings(config, budget, teacher_parameters).items():
            setattr(student, name, value)
        return student

    @torch.no_grad()
    def copy_channels(self, teacher: Any, student: Any, scores: Mapping[str, np.ndarray] | None) -> None:
        """Channels that a residual sum joins are chosen together, by the sum of their scores over the blocks.

        Those inside a block are chosen by their scores behind both of its inner convolutions.
        """
        found, kept = ChannelScores(teacher, scores), widths(student.config)
        old_base, new_base = self.base(teacher), self.base(student)
        stem = found.best(["conv_stem.first_conv.normalization", "conv_stem.conv_3x3.normalization"], kept.stem)
        groups = _joined(widths(teacher.config).blocks)
        chosen = [found.best([_sum_path(member) for member in groups[block]], kept.blocks[block]) for block in range(len(groups))]
        _copy_stem(old_base.conv_stem, new_base.conv_stem, stem, chosen[0], torch.arange(student.config.num_channels))
        for block, (old, new) in enumerate(zip(old_base.layer, new_base.layer)):
            paths = [f"layer.{block}.{part}.normalization" for part in ("expand_1x1", "conv_3x3")]
            inner = found.best(paths, kept.inner[block])
            copy_convolution(old.expand_1x1, new.expand_1x1, inner, chosen[block])
            copy_convolution(old.conv_3x3, new.conv_3x3, inner, None)
            copy_convolution(old.reduce_1x1, new.reduce_1x1, chosen[block + 1], inner)
        last = found.best(["conv_1x1.normalization"], kept.last)
        copy_convolution(old_base.conv_1x1, new_base.conv_1x1, last, chosen[-1])
        self._copy_head(teacher, student, last)


def _convolutions(config: Any, found: Widths, side: int) -> Iterator[tuple[int, int, int, int]]:
    """(input channels per group, output channels, kernel, output side) of every convolution."""
    side, reached = -(-side // 2), 2
    yield config.num_channels, found.stem, 3, side
    if not config.first_layer_is_expansion:
        yield found.stem, found.stem, 1, side
    yield 1, found.stem, 3, side
    yield found.stem, found.blocks[0], 1, side
    for inputs, outputs, inner, stride in zip(found.blocks, found.blocks[1:], found.inner, STRIDES):
        yield inputs, inner, 1, side
        if stride == 2 and reached < config.output_stride:
            side, reached = -(-side // 2), reached * 2
        yield 1, inner, 3, side
        yield inner, outputs, 1, side
    yield found.blocks[-1], found.last, 1, side


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


def widths(config: Any) -> Widths:
    """The channels that a configuration stands for."""
    return _widths(*(cast(getattr(config, name)) for name, cast in FACTORS.items()))


def best_settings(config: Any, budget: int, teacher_parameters: int) -> dict[str, Any]:
    """Values of the configuration's factors whose parameters land on `budget`: narrower, with less expansion in the blocks."""
    settings, found = _candidates(
        *(cast(getattr(config, name)) for name, cast in FACTORS.items()),
        int(config.num_channels),
        int(config.num_labels),
        bool(config.first_layer_is_expansion),
    )
    gap = np.abs(found[:, 0] - budget) / teacher_parameters
    lands = gap <= TOLERANCE
    key = np.where(lands, found[:, 1], gap * 1e6 + 1e3)
    return dict(zip(FACTORS, settings[int(np.argmin(key))], strict=True))


@lru_cache(maxsize=4096)
def _widths(scale: float, expansion: float, divisor: int, least: int, is_fine: bool) -> Widths:
    blocks = tuple(_rounded(round(channels * scale), divisor, least) for channels in CHANNELS)
    inner = tuple(_rounded(round(channels * expansion), divisor, least) for channels in blocks[:-1])
    last = LAST if is_fine and scale < 1.0 else _rounded(round(LAST * scale), divisor, least)
    return Widths(_rounded(round(STEM * scale), divisor, least), blocks, inner, last)


def _rounded(value: int, divisor: int, least: int) -> int:
    """The nearest multiple of `divisor`, at least `least`, never below nine tenths of `value`."""
    nearest = max(least, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def count(found: Widths, channels: int, labels: int, *, has_expansion: bool) -> int:
    """Trainable parameters of a classification model of these widths."""
    total = 9 * channels * found.stem + 2 * found.stem + 9 * found.stem + 2 * found.stem
    total += found.stem * found.stem + 2 * found.stem if has_expansion else 0
    total += found.stem * found.blocks[0] + 2 * found.blocks[0]
    for inputs, outputs, inner in zip(found.blocks, found.blocks[1:], found.inner):
        total += inputs * inner + 9 * inner + inner * outputs + 4 * inner + 2 * outputs
    return total + found.blocks[-1] * found.last + 2 * found.last + found.last * labels + labels


@lru_cache(maxsize=32)
def _candidates(
    scale: float, expansion: float, divisor: int, least: int, is_fine: bool, channels: int, labels: int, is_first: bool
) -> tuple[list[tuple[float, float, int, int, bool]], np.ndarray]:
    """Settings that are nowhere wider than the teacher, and [settings, 2]: their parameters and penalty.

    Where the teacher's last convolution does not shrink with it (`finegrained_output`), the student's may either.
    """
    whole = np.array(_widths(scale, expansion, divisor, least, is_fine).flat)
    settings, found = [], []
    steps = tuple(dict.fromkeys((divisor, *(part for part in (4, 2, 1) if part < divisor))))
    fine = (False, True) if is_fine and scale < 1.0 else (False,)
    shares = np.geomspace(1.0, 0.02, SCALES)
    for step, share, narrowed, last in itertools.product(steps, EXPANSIONS, shares, fine):
        chosen = (scale * float(narrowed), expansion * share, step, min(step, least), last)
        own = _widths(*chosen)
        if np.all(np.array(own.flat) <= whole):
            penalty = -WIDTH_WEIGHT * np.log2(narrowed) - EXPANSION_WEIGHT * np.log2(share)
            settings.append(chosen)
            has_expansion = not is_first
            size = count(own, channels, labels, has_expansion=has_expansion)
            found.append((size, penalty + DIVISOR_WEIGHT * np.log2(divisor / step)))
    return settings, np.array(found, dtype=np.float64)
