"""What a ConvNeXt costs: parameters and multiply-accumulates of a configuration."""

from __future__ import annotations

from typing import Any

KERNEL, EXPANSION = 7, 4


def parameters(config: Any) -> int:
    """Trainable parameters of the classification model."""
    sizes, scale = list(config.hidden_sizes), 1 if config.layer_scale_init_value > 0 else 0
    height, width = _patch(config)
    total = sizes[0] * (config.num_channels * height * width + 3)
    for number, (outputs, depth) in enumerate(zip(sizes, config.depths)):
        inputs = sizes[max(0, number - 1)]
        if number > 0:
            total += 2 * inputs + 4 * inputs * outputs + outputs
        block = outputs * (KERNEL**2 + 1) + 2 * outputs + EXPANSION * outputs * (2 * outputs + 1) + outputs + scale * outputs
        total += depth * block
    return int(total + 2 * sizes[-1] + sizes[-1] * config.num_labels + config.num_labels)


def multiply_adds(config: Any, image_size: int) -> int:
    """Multiply-accumulates of one image."""
    sizes = list(config.hidden_sizes)
    height, width = _patch(config)
    side = image_size // height
    total = side**2 * sizes[0] * config.num_channels * height * width
    for number, (outputs, depth) in enumerate(zip(sizes, config.depths)):
        if number > 0:
            side //= 2
            total += side**2 * 4 * sizes[number - 1] * outputs
        total += depth * side**2 * outputs * (KERNEL**2 + 2 * EXPANSION * outputs)
    return int(total + sizes[-1] * config.num_labels)


def strides(config: Any) -> tuple[int, ...]:
    """Pixels of the image per step of each stage's grid."""
    return tuple(_patch(config)[0] * 2**stage for stage in range(len(config.depths)))


def _patch(config: Any) -> tuple[int, int]:
    size = config.patch_size
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) else (int(size), int(size))
