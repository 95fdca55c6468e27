"""Image classification: one class for an image."""

# B batch, C channels, H height, W width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from potstill.answers.quality import classification_quality, per_class
from potstill.contracts.answers import OneClass
from potstill.data.collate import ImageCollator
from potstill.data.columns import find_image
from potstill.data.encoded import EncodedImages
from potstill.errors import ModelError
from potstill.tasks.loading import head_names, loading_error

_DEFAULT_SIDE = 224


class ImageClassification(OneClass):
    """One class for an image.

    Attributes:
        image_size: (H, W) of the images last encoded, or what the processor loaded last makes; None before that.
            `example_inputs` uses it for models whose configuration does not say.
    """

    name = "image-classification"
    modality = "image"

    def __init__(self) -> None:
        self.image_size: tuple[int, int] | None = None

    def find_columns(self, dataset: Dataset, asked: Mapping[str, str] | None, *, labelled: bool = True) -> dict[str, str]:
        """``image`` and ``label`` → columns; see `potstill.data.columns.find_image`."""
        return find_image(dataset.features, asked, labelled=labelled)

    def load_model(self, name_or_path: str, *, num_labels: int, label_names: Sequence[str]) -> PreTrainedModel:
        """A model for image classification; its head is new where the checkpoint has none of this size.

        Raises:
            ModelError: Nothing to load there.
        """
        names = head_names(num_labels, label_names)
        try:
            return AutoModelForImageClassification.from_pretrained(name_or_path, ignore_mismatched_sizes=True, **names)
        except (OSError, ValueError) as err:
            raise loading_error(name_or_path, "a model for image classification", err) from err

    def load_processor(self, name_or_path: str, *, model_config: Any = None) -> Any:
        """The image processor, on Pillow.

        Raises:
            ModelError: Nothing to load there, or a processor for another number of channels than the model's.
        """
        try:
            processor = AutoImageProcessor.from_pretrained(name_or_path, backend="pil")
        except (OSError, ValueError, ImportError) as err:
            raise loading_error(name_or_path, "an image processor", err) from err
        channels = getattr(model_config, "num_channels", None)
        mean = getattr(processor, "image_mean", None)
        if channels is not None and isinstance(mean, list | tuple) and len(mean) not in (1, channels):
            raise ModelError(
                f"the image processor of {name_or_path} makes {len(mean)} channels, the model takes {channels}",
                "as many means and deviations as the model has channels",
                "mend image_mean and image_std in preprocessor_config.json",
            )
        self.image_size = size_of(processor)
        return processor

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedImages:
        """Resized images; see `potstill.modalities.image.imaging.encode_images`. `max_tokens` has no meaning for images."""
        rows = EncodedImages.encode(dataset, processor, folder)
        if len(rows):
            self.image_size = (rows.shape[1], rows.shape[2])
        return rows

    def collator(self, processor: Any) -> ImageCollator:
        """Scales and normalises as the processor says."""
        return ImageCollator.of(processor)

    def example_inputs(
        self, model: PreTrainedModel, *, batch: int = 1, tokens: int | None = None, image_size: tuple[int, int] | None = None
    ) -> dict[str, torch.Tensor]:
        """Random pixels [B, C, H, W] float32, of the size given, encoded last, or stated by the model; else 224 × 224."""
        height, width = (
            image_size or self.image_size or _sides(getattr(model.config, "image_size", None)) or (_DEFAULT_SIDE, _DEFAULT_SIDE)
        )
        channels = int(getattr(model.config, "num_channels", 3))
        return {"pixel_values": torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))}

    def dynamic_axes(self, model: PreTrainedModel) -> dict[str, dict[int, str]]:
        """The batch."""
        return {"pixel_values": {0: "batch"}}

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """Accuracy, macro F1 and Matthews correlation; see `potstill.answers.quality.classification_quality`."""
        return classification_quality(logits, labels)

    def per_class(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each class; see `potstill.answers.quality.per_class`."""
        return per_class(logits, labels)

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The name of the image's file where it has one, else its row id."""
        path = _path_of(row.get("image"))
        return Path(path).name if path else f"image {row['row_id']}"


def size_of(processor: Any) -> tuple[int, int] | None:
    """(H, W) of the images that a processor makes, or None where that depends on the image."""
    if getattr(processor, "do_center_crop", False) and (sides := _sides(getattr(processor, "crop_size", None))):
        return sides
    return _sides(getattr(processor, "size", None)) if getattr(processor, "do_resize", False) else None


def _sides(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    height, width = (size.get("height"), size.get("width")) if hasattr(size, "get") else (None, None)
    return (int(height), int(width)) if height and width else None


def _path_of(image: Any) -> str | None:
    if isinstance(image, str):
        return image
    return image.get("path") if isinstance(image, dict) else getattr(image, "filename", None)
