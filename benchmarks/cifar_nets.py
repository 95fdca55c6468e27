"""Small nets for images of 32 × 32 pixels, on which the methods of the field are compared.

Each forward takes ``pixel_values`` [B, 3, H, W] and returns logits [B, classes]. ``tap_stages`` names the modules whose outputs
are ``hidden:1``, ``hidden:2`` …; ``strides`` tells their grids. Written from the papers: residual nets of He et al. 2016
(section 4.2; the widened "×4" ones as in the published tables: stem 32, stages 64, 128, 256), plain nets of Simonyan and
Zisserman 2015 with batch norm and a mean over positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, a ReLU behind the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride=stride)
        self.second = _convolution(outputs, outputs)
        is_same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if is_same else _convolution(inputs, outputs, kernel=1, stride=stride)

    def forward(self, value: Tensor) -> Tensor:
        """[B, C, H, W] → [B, outputs, H / stride, W / stride]."""
        return functional.relu(self.second(functional.relu(self.first(value))) + self.shortcut(value))


class StagedNet(nn.Module):
    """A stem, stages, a mean over positions, and the classes."""

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], widths: Sequence[int], strides: Sequence[int], classes: int
    ) -> None:
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)
        self.classifier = nn.Linear(widths[-1], classes)
        self.tap_stages = tuple(f"stages.{number}" for number in range(len(stages)))
        self.widths, self.strides = tuple(widths), tuple(strides)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits [B, classes]."""
        value = self.stem(pixel_values)
        for stage in self.stages:
            value = stage(value)
        return self.classifier(value.mean(dim=(2, 3)))


def resnet(depth: int, widths: Sequence[int], classes: int, *, stem: int | None = None) -> StagedNet:
    """A residual net of 6 n + 2 layers in three stages."""
    blocks, before = (depth - 2) // 6, widths[0] if stem is None else stem
    first = nn.Sequential(_convolution(3, before), nn.ReLU())
    stages = []
    for number, width in enumerate(widths):
        strides = [1 if number == 0 else 2, *[1] * (blocks - 1)]
        inputs = [before, *[width] * (blocks - 1)]
        stages.append(nn.Sequential(*(ResidualBlock(old, width, stride) for old, stride in zip(inputs, strides))))
        before = width
    return StagedNet(first, stages, widths, (1, 2, 4), classes)


def vgg(depths: Sequence[int], classes: int) -> StagedNet:
    """A plain net of five stages; the grid halves before all but the first and the last, as for images of 32 × 32."""
    widths, before, stages = (64, 128, 256, 512, 512), 3, []
    for number, (depth, width) in enumerate(zip(depths, widths)):
        layers: list[nn.Module] = [] if number in (0, 4) else [nn.MaxPool2d(2)]
        for inputs in [before, *[width] * (depth - 1)]:
            layers += [_convolution(inputs, width), nn.ReLU()]
        stages.append(nn.Sequential(*layers))
        before = width
    return StagedNet(nn.Identity(), stages, widths, (1, 2, 4, 8, 8), classes)


@dataclass(frozen=True)
class Pair:
    """A teacher and a student.

    Args:
        teacher: Name in `build`.
        student: Likewise.
        response_beta: DKD's published weight of the classes other than the label's for this pair.
        review_weight: ReviewKD's published weight for this pair.
    """

    teacher: str
    student: str
    response_beta: float
    review_weight: float


PAIRS = {
    "resnet56-resnet20": Pair("resnet56", "resnet20", 2.0, 0.6),
    "resnet32x4-resnet8x4": Pair("resnet32x4", "resnet8x4", 8.0, 5.0),
    "vgg13-vgg8": Pair("vgg13", "vgg8", 6.0, 5.0),
    "resnet32x4-vgg8": Pair("resnet32x4", "vgg8", 8.0, 5.0),
}


def build(name: str, classes: int = 10) -> StagedNet:
    """The net of that name, with random weights."""
    narrow, wide = (16, 32, 64), (64, 128, 256)
    makers = {
        "resnet56": lambda: resnet(56, narrow, classes),
        "resnet20": lambda: resnet(20, narrow, classes),
        "resnet32x4": lambda: resnet(32, wide, classes, stem=32),
        "resnet8x4": lambda: resnet(8, wide, classes, stem=32),
        "vgg13": lambda: vgg((2, 2, 2, 2, 2), classes),
        "vgg8": lambda: vgg((1, 1, 1, 1, 1), classes),
    }
    return makers[name]()
