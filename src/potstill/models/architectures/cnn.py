"""A plain convolutional network for images."""

# B batch, C channels, H height, W width

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .classifier import StudentClassifier, StudentModel, pooled_output
from .configuration import CNNConfig, stem_kernel


class CNNModel(StudentModel):
    """A stem and stages of convolution, batch norm and ReLU; the mean over positions, [B, channels of the last stage].

    *Source*: the plain networks of Simonyan & Zisserman 2015 (https://arxiv.org/abs/1409.1556), with batch norm, strides instead
    of pooling, and a mean over positions instead of fully connected layers. A runtime folds each norm into its convolution.
    """

    config_class = CNNConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        sizes = list(config.hidden_sizes)
        self.stem = _block(config.num_channels, sizes[0], config.stem_stride)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(*_stage(before, size, depth, stride=1 if number == 0 else 2))
                for number, (before, size, depth) in enumerate(zip([sizes[0], *sizes], sizes, config.depths))
            ]
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, **ignored: Any
    ) -> BaseModelOutputWithPooling:
        """Hidden states [B, C, H, W] of stem and stages, and the pooled image [B, C]; arguments as in the classifier."""
        states = [self.stem(pixel_values)]
        for stage in self.stages:
            states.append(stage(states[-1]))
        return pooled_output(states, states[-1].mean(dim=(2, 3)), output_hidden_states)


class CNNForImageClassification(StudentClassifier):
    """`CNNModel` and the classes."""

    config_class = CNNConfig
    encoder_class = CNNModel
    main_input_name = "pixel_values"

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> SequenceClassifierOutput:
        """Classify images.

        Args:
            pixel_values: [B, C, H, W] float.
            labels: [B] int64; gives the loss.
            output_hidden_states: Whether to return the output of the stem and of every stage, [B, C, H, W] each.
            ignored: Inputs that other models take.
        """
        return self.classify(self.encoder(pixel_values, output_hidden_states=output_hidden_states), labels)


def _stage(inputs: int, outputs: int, depth: int, *, stride: int) -> list[nn.Module]:
    first = _block(inputs, outputs, stride, kernel=3)
    return [first, *(_block(outputs, outputs, 1, kernel=3) for _ in range(depth - 1))]


def _block(inputs: int, outputs: int, stride: int, *, kernel: int | None = None) -> nn.Sequential:
    size = kernel or stem_kernel(stride)
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=(size - 1) // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
