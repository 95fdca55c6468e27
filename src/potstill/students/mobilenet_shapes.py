"""Widths, costs and smaller shapes of MobileNetV2, whose configuration holds two factors and no list of widths."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

# The net at a factor of one: channels of stem and blocks, strides of the blocks (Sandler et al. 2018, arXiv 1801.04381, table 2).
CHANNELS = (16, *(24,) * 2, *(32,) * 3, *(64,) * 4, *(96,) * 3, *(160,) * 3, 320)
STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
STEM, LAST = 32, 1280
STAGE_ENDS = (1, 4, 11, 15)  # the last block of each grid, counted from 0
STAGE_DEPTHS = (2, 3, 7, 4)

WIDTH_WEIGHT = 1.5  # × log2(1 / width scale)
EXPANSION_WEIGHT = 1.0  # × log2(expansion of the teacher / expansion)
DIVISOR_WEIGHT = 0.05  # × log2(divisor of the teacher / divisor): odd widths are slower
TOLERANCE = 0.004
SCALES, EXPANSIONS = 240, (1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)


@dataclass(frozen=True)
class Widths:
    """Channels of a MobileNetV2.

    Args:
        stem: Of the first convolution.
        blocks: Of the stem's output and of each block's.
        inner: Inside each block.
        last: Of the convolution before the classes.
    """

    stem: int
    blocks: tuple[int, ...]
    inner: tuple[int, ...]
    last: int

    @property
    def flat(self) -> tuple[int, ...]:
        """All of them."""
        return (self.stem, *self.blocks, *self.inner, self.last)


def widths(config: Any) -> Widths:
    """The channels that a configuration stands for."""
    return _widths(
        float(config.depth_multiplier),
        float(config.expand_ratio),
        int(config.depth_divisible_by),
        int(config.min_depth),
        bool(config.finegrained_output),
    )


def stage_size(config: Any, name: str) -> tuple[int, ...]:
    """Blocks ("layers") or channels ("hidden") of the stages: the runs of blocks on one grid."""
    return STAGE_DEPTHS if name == "layers" else tuple(widths(config).blocks[end + 1] for end in STAGE_ENDS)


def stage_strides(config: Any) -> tuple[int, ...]:
    """Pixels of the image per step of each stage's grid."""
    return tuple(min(stride, int(config.output_stride)) for stride in (4, 8, 16, 32))


def parameters(config: Any) -> int:
    """Trainable parameters of the classification model."""
    found = widths(config)
    return _parameters(found, config.num_channels, config.num_labels, has_expansion=not config.first_layer_is_expansion)


def multiply_adds(config: Any, image_size: int) -> int:
    """Multiply-accumulates of one image."""
    found = widths(config)
    spatial = sum(
        inputs * outputs * kernel**2 * side**2 for inputs, outputs, kernel, side in _convolutions(config, found, image_size)
    )
    return spatial + found.last * config.num_labels


def best_mobilenet(config: Any, budget: int, teacher_parameters: int) -> Any:
    """A MobileNetV2 configuration whose parameters land on `budget`: narrower, and with less expansion inside its blocks.

    Args:
        config: The teacher's configuration; it is not changed.
        budget: Parameters to land on.
        teacher_parameters: What the tolerance refers to.
    """
    settings, found = _candidates(
        float(config.depth_multiplier),
        float(config.expand_ratio),
        int(config.depth_divisible_by),
        int(config.min_depth),
        bool(config.finegrained_output),
        int(config.num_channels),
        int(config.num_labels),
        bool(config.first_layer_is_expansion),
    )
    gap = np.abs(found[:, 0] - budget) / teacher_parameters
    lands = gap <= TOLERANCE
    key = np.where(lands, found[:, 1], gap * 1e6 + 1e3)
    scale, expansion, divisor, least, is_fine = settings[int(np.argmin(key))]
    student = copy.deepcopy(config)
    student.depth_multiplier, student.expand_ratio = scale, expansion
    student.depth_divisible_by, student.min_depth, student.finegrained_output = divisor, least, is_fine
    return student


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


def _parameters(found: Widths, channels: int, labels: int, *, has_expansion: bool) -> int:
    total = 9 * channels * found.stem + 2 * found.stem + 9 * found.stem + 2 * found.stem
    total += found.stem * found.stem + 2 * found.stem if has_expansion else 0
    total += found.stem * found.blocks[0] + 2 * found.blocks[0]
    for inputs, outputs, inner in zip(found.blocks, found.blocks[1:], found.inner):
        total += inputs * inner + 9 * inner + inner * outputs + 4 * inner + 2 * outputs
    return total + found.blocks[-1] * found.last + 2 * found.last + found.last * labels + labels


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
            size = _parameters(own, channels, labels, has_expansion=has_expansion)
            found.append((size, penalty + DIVISOR_WEIGHT * np.log2(divisor / step)))
    return settings, np.array(found, dtype=np.float64)
