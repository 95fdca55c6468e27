"""Any `torch.nn.Module` that classifies images, as a model that the rest of Potstill can train, save, load, tap and export.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from potstill.data.images import size_of
from potstill.errors import ModelError, first_line
from potstill.ground.counted import counted
from potstill.ground.devices import frozen
from potstill.models.factory import make
from potstill.models.inputs import InputNames, logits_of
from potstill.models.labels import name_classes

DEFAULT_SIDE = 224


class ModuleConfig(PreTrainedConfig):
    """Configuration of a user's network.

    Args:
        factory: The function that makes it, ``package.module:function``.
        stages: Paths of the modules that end a grid; their outputs are ``hidden:1``, ``hidden:2`` …
        strides: Pixels of the image per step of their grids.
        image_size: Pixels (height, width) that it was looked at with.
    """

    model_type = "potstill-module"

    factory: str = ""
    stages: list[str] | tuple[str, ...] = ()
    hidden_sizes: list[int] | tuple[int, ...] = ()
    strides: list[int] | tuple[int, ...] = ()
    num_channels: int = 3
    image_size: list[int] | tuple[int, int] = (DEFAULT_SIDE, DEFAULT_SIDE)


class ModuleForImageClassification(PreTrainedModel):
    """A user's network behind the interface of transformers.

    Args:
        config: Names the factory.
        network: The network; made by the factory where it is not given.
    """

    config_class = ModuleConfig
    config: ModuleConfig
    base_model_prefix = "network"
    main_input_name = "pixel_values"

    def __init__(self, config: ModuleConfig, network: nn.Module | None = None) -> None:
        super().__init__(config)
        with torch.device("cpu"):  # the factory may read weights of its own, which a device without memory cannot hold
            self.network = make(config.factory, config.num_labels)[0] if network is None else network
        self.tap_stages = tuple(f"network.{path}" for path in config.stages)
        self._names = InputNames(self.network)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The network has its weights already."""

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **ignored: Any) -> ImageClassifierOutput:
        """Logits [B, classes] of images [B, C, H, W]; `labels` [B] give the loss."""
        logits = logits_of(self.network(**self._names.take({"pixel_values": pixel_values})))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def wrap(
    network: nn.Module, factory: str, processor: Any, *, label_names: tuple[str, ...] | None = None
) -> ModuleForImageClassification:
    """Look at a network with one blank image and give it the interface.

    Args:
        network: Its forward takes images [B, C, H, W] and returns logits, or an object (mapping, tuple) with them.
        factory: What makes it again when it is loaded.
        processor: The image processor, which has the size of images; None for 224 pixels.
        label_names: Names of its classes in order; left out, they are numbers.

    Raises:
        ModelError: It does not run on such an image, or has other classes than names.
    """
    height, width = (size_of(processor) if processor is not None else None) or (DEFAULT_SIDE, DEFAULT_SIDE)
    channels = next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), 3)
    logits, stages = _look(network, factory, torch.zeros(2, channels, height, width))
    config = ModuleConfig(
        factory=factory,
        stages=[path for path, _ in stages],
        hidden_sizes=[shape[1] for _, shape in stages],
        strides=[round(height / shape[2]) for _, shape in stages],
        num_channels=channels,
        image_size=[height, width],
    )
    config.num_labels = logits.shape[1]
    if label_names is not None and len(label_names) != logits.shape[1]:
        raise ModelError(
            f"{factory} gives {counted(logits.shape[1], 'logit')}"
            f" and the data has {counted(len(label_names), 'class', 'classes')}",
            "a logit for each class of the data",
            "let the function take num_labels, or check data.columns",
        )
    config.architectures = [ModuleForImageClassification.__name__]
    model = ModuleForImageClassification(config, network)
    name_classes(model, label_names)
    return model


def register() -> None:
    """Make such models known to transformers' Auto classes; doing it twice changes nothing."""
    from transformers import AutoConfig, AutoModelForImageClassification

    AutoConfig.register(ModuleConfig.model_type, ModuleConfig, exist_ok=True)
    AutoModelForImageClassification.register(ModuleConfig, ModuleForImageClassification, exist_ok=True)


def _look(network: nn.Module, name: str, images: Tensor) -> tuple[Tensor, list[tuple[str, tuple[int, ...]]]]:
    """The logits of images, and the last module of each grid with the shape of its output, by falling resolution."""
    ends: dict[tuple[int, int], tuple[str, tuple[int, ...]]] = {}

    def note(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
                ends[tuple(output.shape[2:])] = (path, tuple(output.shape))  # type: ignore[index]

        return hook

    try:
        with frozen(network), contextlib.ExitStack() as hooks:
            for path, module in network.named_modules():
                if path:
                    hooks.enter_context(module.register_forward_hook(note(path)))
            logits = logits_of(network(**InputNames(network).take({"pixel_values": images})))
    except ModelError:
        raise
    except Exception as err:
        raise ModelError(
            f"{name} does not run on images {list(images.shape[1:])} ({type(err).__name__}: {first_line(err)[:160]})",
            "a forward that takes images [batch, channels, height, width] and returns logits",
            "give the image processor of its size: teacher.processor, or return (network, processor) from the function",
        ) from err
    if logits.dim() != 2 or len(logits) != len(images):
        raise ModelError(
            f"{name} gave logits of shape {list(logits.shape)}", "one row of logits for each image, [batch, classes]"
        )
    return logits, sorted(ends.values(), key=lambda end: -end[1][2])
