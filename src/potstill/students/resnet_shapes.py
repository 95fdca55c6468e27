"""The search over ResNet and ConvNeXt shapes: how many blocks per stage, and how wide each stage, fit a budget."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np

from potstill.students.cost import parameters

DEPTH_WEIGHT = 1.0  # × log2(blocks of the teacher / blocks)
WIDTH_WEIGHT = 1.5  # × log2(1 / width scale)
TOLERANCE = 0.004
SKETCHED = (
    *("model_type", "num_channels", "num_labels", "embedding_size", "hidden_sizes", "depths", "patch_size"),
    *("layer_type", "downsample_in_first_stage", "downsample_in_bottleneck", "layer_scale_init_value"),
)


def best_resnet(config: Any, budget: int, teacher_parameters: int) -> Any:
    """A ResNet (or ConvNeXt) configuration whose parameters land on `budget`.

    All stages shrink by one scale; the last stage, then the others, take up what rounding leaves.

    Args:
        config: The teacher's configuration; it is not changed.
        budget: Parameters to land on.
        teacher_parameters: What the tolerance refers to.
    """
    whole, config = config, _sketch(config)
    step = channel_step(config)
    best, best_key = config, (np.inf, np.inf)
    for depths in _depth_choices(config):
        candidate, scale = _fit_width(config, depths, budget, step)
        gap = abs(parameters(candidate) - budget) / teacher_parameters
        penalty = DEPTH_WEIGHT * np.log2(sum(config.depths) / sum(depths)) - WIDTH_WEIGHT * np.log2(scale)
        key = (0.0, penalty) if gap <= TOLERANCE else (gap, penalty)
        if key < best_key:
            best, best_key = candidate, key
    student = copy.deepcopy(whole)
    for name in ("depths", "hidden_sizes", "embedding_size"):
        if hasattr(best, name):
            setattr(student, name, getattr(best, name))
    return student


def _sketch(config: Any) -> SimpleNamespace:
    """What the search reads of a configuration, without the cost of copying all of it for every candidate."""
    return SimpleNamespace(**{name: getattr(config, name) for name in SKETCHED if hasattr(config, name)})


def channel_step(config: Any) -> int:
    """Stage widths are multiples of this; bottlenecks need a multiple of 4."""
    return 8 if min(config.hidden_sizes) >= 64 else 4


def _depth_choices(config: Any) -> list[list[int]]:
    """From all blocks down to one per stage, every stage shortened evenly."""
    choices = []
    for share in np.linspace(1.0, 0.0, max(config.depths) * 2):
        depths = [max(1, round(depth * share)) for depth in config.depths]
        if depths not in choices:
            choices.append(depths)
    return choices


def _fit_width(config: Any, depths: list[int], budget: int, step: int) -> tuple[Any, float]:
    low, high = 0.0, 1.0
    if parameters(_scaled(config, depths, 1.0, step)) <= budget:
        low = 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if parameters(_scaled(config, depths, middle, step)) <= budget:
            low = middle
        else:
            high = middle
    scaled = _scaled(config, depths, max(low, 1e-3), step)
    return _take_up_slack(config, scaled, budget, step), max(low, 1e-3)


def _take_up_slack(config: Any, scaled: Any, budget: int, step: int) -> Any:
    """Widen single stages, the last first, while the budget allows."""
    for stage, delta in itertools.product(reversed(range(len(scaled.hidden_sizes))), (8 * step, step)):
        while scaled.hidden_sizes[stage] + delta <= config.hidden_sizes[stage]:
            wider = copy.deepcopy(scaled)
            wider.hidden_sizes[stage] += delta
            if parameters(wider) > budget:
                break
            scaled = wider
    return scaled


def _scaled(config: Any, depths: list[int], scale: float, step: int) -> Any:
    def width(channels: int) -> int:
        return max(step, min(channels, round(channels * scale / step) * step))

    scaled = copy.deepcopy(config)
    scaled.depths = list(depths)
    scaled.hidden_sizes = [width(channels) for channels in config.hidden_sizes]
    if hasattr(config, "embedding_size"):
        scaled.embedding_size = width(config.embedding_size)
    return scaled
