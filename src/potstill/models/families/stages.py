"""Families of convolutional models: stages of blocks, each of a width of its own, whose channels are cut."""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.models.families.base import Family, copy_linear

DEPTH_WEIGHT = 1.0  # × log2(blocks of the teacher / blocks)
WIDTH_WEIGHT = 1.5  # × log2(1 / width scale)
TOLERANCE = 0.004


class Stages(Family):
    """The base of convolutional models."""

    modality = "image"
    build = "convolution"
    blocks_path = "encoder.stages"
    config_keys: Mapping[str, str] = MappingProxyType({"hidden": "hidden_sizes", "layers": "depths"})
    sketched: tuple[str, ...] = ()  # further keys that the arithmetic reads
    refits_head = True  # whether the final layer of a cut student is fitted again

    def depth(self, config: Any) -> int:
        """Blocks over all stages."""
        return sum(self.size(config, "layers"))

    def inner_sizes(self, config: Any) -> tuple[Any, ...]:
        """Widths of the stem and the stages."""
        return (getattr(config, "embedding_size", None), *config.hidden_sizes)

    def flops(self, config: Any, *, tokens: int = 128, image_size: int = 224) -> int:
        """Of an image of that size."""
        return 2 * self.multiply_adds(config, image_size)

    @abstractmethod
    def multiply_adds(self, config: Any, image_size: int) -> int:
        """Multiply-accumulates of one image."""

    def scored_modules(self, model: nn.Module) -> list[tuple[str, nn.Module, int]]:
        """Path, module and axis of the channels whose importance is measured: every batch norm."""
        return [(name, module, 1) for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]

    @abstractmethod
    def copy_channels(self, teacher: Any, student: Any, scores: Mapping[str, np.ndarray] | None) -> None:
        """Fill `student` with the first blocks and the best channels of every stage of `teacher`.

        Args:
            teacher: Read only.
            student: Of the same type; filled in place.
            scores: Path of a scored module → [channels], higher is worth more; None where nothing was measured.
        """

    def _copy_head(self, teacher: Any, student: Any, inputs: Tensor) -> None:
        old, new = self.head(teacher), self.head(student)
        copy_linear(old, new, torch.arange(new.out_features), inputs)

    def kept_blocks(self, config: Any, student: Any) -> tuple[int, ...]:
        """Blocks of `config` that a student keeps, counted over all stages: the first of each, which changes the resolution."""
        depths, kept = self.size(config, "layers"), self.size(student, "layers")
        starts = [0, *itertools.accumulate(depths)]
        return tuple(start + block for start, own in zip(starts, kept) for block in range(1, own + 1))

    def narrowed(self, config: Any, budget: int, teacher_parameters: int) -> Any:
        """A configuration whose parameters land on `budget`.

        All stages shrink by one scale; the last stage, then the others, take up what rounding leaves.
        `config` is the teacher's; the tolerance is a share of `teacher_parameters`.
        """
        whole, config = config, self._sketch(config)
        step = 8 if min(config.hidden_sizes) >= 64 else 4  # bottlenecks need a multiple of 4
        best, best_key = config, (np.inf, np.inf)
        for depths in _depth_choices(config):
            candidate, scale = self._fit_width(config, depths, budget, step)
            gap = abs(self.parameters(candidate) - budget) / teacher_parameters
            penalty = DEPTH_WEIGHT * np.log2(sum(config.depths) / sum(depths)) - WIDTH_WEIGHT * np.log2(scale)
            key = (0.0, penalty) if gap <= TOLERANCE else (gap, penalty)
            if key < best_key:
                best, best_key = candidate, key
        student = copy.deepcopy(whole)
        for name in ("depths", "hidden_sizes", "embedding_size"):
            if hasattr(best, name):
                setattr(student, name, getattr(best, name))
        return student

    def _sketch(self, config: Any) -> SimpleNamespace:
        """What the search reads of a configuration, without the cost of copying all of it for every candidate."""
        names = ("num_channels", "num_labels", "embedding_size", "hidden_sizes", "depths", *self.sketched)
        return SimpleNamespace(**{name: getattr(config, name) for name in names if hasattr(config, name)})

    def _fit_width(self, config: Any, depths: list[int], budget: int, step: int) -> tuple[Any, float]:
        low, high = 0.0, 1.0
        if self.parameters(_scaled(config, depths, 1.0, step)) <= budget:
            low = 1.0
        for _ in range(20):
            middle = (low + high) / 2
            if self.parameters(_scaled(config, depths, middle, step)) <= budget:
                low = middle
            else:
                high = middle
        scaled = _scaled(config, depths, max(low, 1e-3), step)
        return self._take_up_slack(config, scaled, budget, step), max(low, 1e-3)

    def _take_up_slack(self, config: Any, scaled: Any, budget: int, step: int) -> Any:
        """Widen single stages, the last first, while the budget allows."""
        for stage, delta in itertools.product(reversed(range(len(scaled.hidden_sizes))), (8 * step, step)):
            while scaled.hidden_sizes[stage] + delta <= config.hidden_sizes[stage]:
                wider = copy.deepcopy(scaled)
                wider.hidden_sizes[stage] += delta
                if self.parameters(wider) > budget:
                    break
                scaled = wider
        return scaled


def _depth_choices(config: Any) -> list[list[int]]:
    """From all blocks down to one per stage, every stage shortened evenly."""
    choices = []
    for share in np.linspace(1.0, 0.0, max(config.depths) * 2):
        depths = [max(1, round(depth * share)) for depth in config.depths]
        if depths not in choices:
            choices.append(depths)
    return choices


def _scaled(config: Any, depths: list[int], scale: float, step: int) -> Any:
    def width(channels: int) -> int:
        return max(step, min(channels, round(channels * scale / step) * step))

    scaled = copy.deepcopy(config)
    scaled.depths = list(depths)
    scaled.hidden_sizes = [width(channels) for channels in config.hidden_sizes]
    if hasattr(config, "embedding_size"):
        scaled.embedding_size = width(config.embedding_size)
    return scaled


class ChannelScores:
    """Channel scores by the path of a batch norm in the base model; the norm's scale where nothing was measured."""

    def __init__(self, teacher: Any, scores: Mapping[str, np.ndarray] | None) -> None:
        prefix = f"{teacher.base_model_prefix}."
        modules = {name: module for name, module in teacher.base_model.named_modules() if isinstance(module, nn.BatchNorm2d)}
        measured = {name.removeprefix(prefix): score for name, score in (scores or {}).items()}
        self.scores = {name: measured.get(name, module.weight.detach().abs().cpu().numpy()) for name, module in modules.items()}

    def best(self, paths: Sequence[str], kept: int) -> Tensor:
        """The `kept` channels of the largest sum of scores over norms, ascending."""
        return best_channels([self.scores[path] for path in paths if path in self.scores], kept)


def best_channels(scores: Sequence[np.ndarray], kept: int) -> Tensor:
    """The `kept` channels of the largest sum of `scores`, ascending."""
    return torch.as_tensor(np.sort(np.argsort(-np.sum(scores, axis=0), kind="stable")[:kept]))


def copy_convolution(old: Any, new: Any, outputs: Tensor, inputs: Tensor | None) -> None:
    """Copy channels of a convolution and its norm; `inputs` is None where each filter sees its own channel alone."""
    weight = old.convolution.weight[outputs]
    new.convolution.weight.copy_(weight if inputs is None else weight[:, inputs])
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(new.normalization, name).copy_(getattr(old.normalization, name)[outputs])
