"""Networks as a user writes them: no base class, inputs and outputs of their own kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Two grids and a head; the one input is called `x`, the answer is a mapping."""

    def __init__(self, width: int = 6, classes: int = 2) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.coarse(self.fine(x)).mean((2, 3)))}


def build(num_labels: int = 2) -> nn.Module:
    return Small(classes=num_labels)


def with_processor(num_labels: int = 2) -> tuple[nn.Module, Any]:
    from transformers import ViTImageProcessorPil

    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Small(12, num_labels), processor


def broken() -> nn.Module:
    raise RuntimeError("no weights here")


def number() -> int:
    return 7


def square() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))


CONSTANT = torch.zeros(1)
