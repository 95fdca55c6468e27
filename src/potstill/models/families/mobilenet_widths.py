"""Widths of MobileNetV2, whose configuration holds two factors and no list of them, and the search for narrower ones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

# The net at a factor of one: channels of stem and blocks, strides of the blocks (Sandler et al. 2018, arXiv 1801.04381, table 2).
CHANNELS = (16, *(24,) * 2, *(32,) * 3, *(64,) * 4, *(96,) * 3, *(160,) * 3, 320)
STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
STEM, LAST = 32, 1280

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


FACTORS: dict[str, Any] = {
    "depth_multiplier": float,
    "expand_ratio": float,
    "depth_divisible_by": int,
    "min_depth": int,
    "finegrained_output": bool,
}


def widths(config: Any) -> Widths:
    """The channels that a configuration stands for."""
    return _widths(*(cast(getattr(config, name)) for name, cast in FACTORS.items()))


def best_settings(config: Any, budget: int, teacher_parameters: int) -> dict[str, Any]:
    """Values of the configuration's factors whose parameters land on `budget`: narrower, with less expansion in the blocks.

    Args:
        config: The teacher's configuration.
        budget: Parameters to land on.
        teacher_parameters: What the tolerance refers to.
    """
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
