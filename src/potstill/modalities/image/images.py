"""Images."""

# B batch, C channels, H height, W width

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, Image
from transformers import AutoImageProcessor

from potstill.data import images
from potstill.data.arrow import table_of
from potstill.data.collate import ImageCollator
from potstill.data.columns import is_image, named, named_label, only, others
from potstill.data.encoded import EncodedRows
from potstill.errors import DataError, ModelError
from potstill.ground.counted import counted, inflected
from potstill.modalities import loading_error
from potstill.modalities.image.imaging import encode_images, num_channels
from potstill.models.families import family_or_none

IMAGE_NAMES = (
    *("image", "img", "images", "picture", "photo", "jpg", "png", "image_path", "image_file", "file_name", "filename"),
    *("file", "path", "图片", "图像"),
)
_DEFAULT_SIDE = 224
_THUMBNAIL = 96


class Images:
    """Rows of one image; see `contracts.modality.Modality` for what each member means.

    Attributes:
        image_size: (H, W) of the images last encoded or seen, or what the processor loaded last makes; None before that.
            `example_inputs` uses it for models whose configuration does not say.
    """

    name = "image"
    roles: Sequence[str] = ("image",)
    column_names: Sequence[str] = IMAGE_NAMES
    noun = "images"
    processor_noun = "an image processor"
    has_tokens = False
    can_augment = False
    is_windowed = False
    can_turn = True

    def __init__(self) -> None:
        self.image_size: tuple[int, int] | None = None

    def find_content(self, features: Features, roles: Mapping[str, str], *, taken: Sequence[str] | None = None) -> dict[str, str]:
        """``image``: the only column of images, else the one with a usual name."""
        if "image" in roles:
            return dict(roles)
        labels = named_label(features, roles) if taken is None else taken
        free = others(features, {*roles.values(), *labels})
        found = [name for name in free if is_image(features[name])] or named(free, IMAGE_NAMES)
        return {**roles, "image": only("image", found, features)}

    def read_folder(self, folder: Path, files: Sequence[Path], *, labelled: bool) -> Dataset | None:
        """A folder with a metadata file, or with one sub-folder a class (without labels any images)."""
        metadata = next((folder / name for name in images.METADATA if (folder / name).is_file()), None)
        if metadata is not None:
            return images.read_metadata_folder(folder, metadata)
        if images.class_folders(folder) or (not labelled and images.image_files(folder)):
            return images.read_class_folders(folder, labelled=labelled)
        return None

    def read(
        self,
        dataset: Dataset,
        roles: Mapping[str, str],
        split: str,
        notes: list[str],
        *,
        folder: Path | None,
        skip_corrupt: bool,
        start: int = 0,
    ) -> tuple[pa.Table, list[int] | None]:
        """``image``, each looked at; those that cannot be read are refused or left out."""
        values = _image_column(dataset, roles["image"], folder)
        faults = {}
        for row in range(len(values)):
            value = values[row].as_py()
            if fault := images.is_readable(value, whole=skip_corrupt):
                faults[row] = (value, fault)
                if not skip_corrupt:
                    raise images.corrupt_image(value, start + row, fault)
        keep = [row for row in range(len(values)) if row not in faults]
        if faults:
            listed = ", ".join(images.name_of(value, start + row) for row, (value, _) in list(faults.items())[:5])
            notes.append(
                f"{counted(len(faults), 'image')} of the {split} split cannot be read and"
                f" {inflected(len(faults), 'is', 'are')} left out: {listed}"
            )
        if not keep:
            raise DataError(f"no image of the {split} split can be read, of {len(values)}", "whole images", "check the files")
        return pa.table({"image": values.take(keep) if faults else values}), keep

    def load_processor(self, name_or_path: str, *, model_config: Any = None) -> Any:
        """The image processor, on Pillow.

        Raises:
            ModelError: Nothing to load there, or a processor for another number of channels than the model's.
        """
        try:
            processor = AutoImageProcessor.from_pretrained(name_or_path, backend="pil")
        except (OSError, ValueError, ImportError) as err:
            raise loading_error(name_or_path, "an image processor", err) from err
        self.check_reads(name_or_path, model_config, processor)
        self.image_size = images.size_of(processor)
        return processor

    def reading(self, processor: Any, max_tokens: int | None) -> dict[str, Any]:
        """Resizing, cropping, scale and normalisation, where these are all that the processor does."""
        size = images.sides_of(processor.size) if getattr(processor, "do_resize", False) else None
        crops = getattr(processor, "do_center_crop", False)
        is_simple = (size is not None or not getattr(processor, "do_resize", False)) and not getattr(processor, "do_pad", False)
        if not is_simple or getattr(processor, "crop_pct", None):
            return {}
        norms = processor.do_normalize
        pixels = {
            "mode": "L" if num_channels(processor) == 1 else "RGB",
            "size": size and list(size),
            "resample": int(getattr(processor, "resample", None) or 0),
            "crop": list(images.sides_of(processor.crop_size) or ()) or None if crops else None,
            "scale": processor.rescale_factor if processor.do_rescale else 1.0,
            "mean": _per_channel(processor.image_mean) if norms else [],
            "std": _per_channel(processor.image_std) if norms else [],
        }
        return {"pixels": pixels}

    def check_reads(self, name: str, config: Any, processor: Any) -> None:
        """Refuses other channels than the model takes, and another size than one with fixed positions takes."""
        channels, mean = getattr(config, "num_channels", None), getattr(processor, "image_mean", None)
        if channels is not None and isinstance(mean, list | tuple) and len(mean) not in (1, channels):
            raise ModelError(
                f"the image processor of {name} makes {len(mean)} channels, the model takes {channels}",
                "as many means and deviations as the model has channels",
                "correct image_mean and image_std in preprocessor_config.json",
            )
        family = None if config is None else family_or_none(config)
        wanted, made = None if family is None else family.image_sides(config), images.size_of(processor)
        if wanted and made and wanted != made:
            raise ModelError(
                f"{name} takes images of {wanted[0]} x {wanted[1]} pixels, its image processor makes {made[0]} x {made[1]}",
                "the same size in both",
                "set image_size in its config.json, or save its own image processor in its folder",
            )

    def fitted(self, processor: Any, config: Any) -> Any | None:
        """None: sizes are checked, not brought down."""
        return None

    def split_long(self, dataset: Dataset, processor: Any, **options: Any) -> tuple[Dataset, str]:
        """Images as they are."""
        return dataset, ""

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedRows:
        """Resized images; see `potstill.modalities.image.imaging.encode_images`. `max_tokens` has no meaning for images."""
        rows = encode_images(dataset, processor, folder)
        if len(rows):
            self.image_size = (rows.shape[1], rows.shape[2])
        return rows

    def collator(self, processor: Any) -> ImageCollator:
        """Scales and normalises as the processor says."""
        return ImageCollator.of(processor)

    def see(self, rows: Any) -> None:
        """Example inputs have the size of these images; teacher and student may read other sizes."""
        height, width = rows[0]["pixel_values"].shape[-2:]
        self.image_size = (int(height), int(width))

    def middle(self, rows: Any) -> int | None:
        """None: images have no tokens."""
        return None

    def example_inputs(self, model: Any, *, batch: int = 1, tokens: int | None = None) -> dict[str, torch.Tensor]:
        """Random pixels [B, C, H, W] float32, of the size encoded or seen last, or stated by the model; else 224 × 224."""
        height, width = (
            self.image_size or images.sides_of(getattr(model.config, "image_size", None)) or (_DEFAULT_SIDE, _DEFAULT_SIDE)
        )
        channels = int(getattr(model.config, "num_channels", 3))
        return {"pixel_values": torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))}

    def dynamic_axes(self, model: Any) -> dict[str, dict[int, str]]:
        """The batch."""
        return {"pixel_values": {0: "batch"}}

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The name of the image's file where it has one, else its row id."""
        image = row.get("image")
        path = image.get("path") if isinstance(image, dict) else getattr(image, "filename", image)
        return Path(path).name if isinstance(path, str) and path else f"image {row['row_id']}"

    def shown(self, row: Mapping[str, Any]) -> dict[str, str]:
        """A thumbnail as PNG; small images are enlarged by whole pixels."""
        from PIL import Image as Pillow

        image = images.decode(row["image"], row["row_id"])
        if max(image.size) < _THUMBNAIL // 2:
            factor = _THUMBNAIL // (2 * max(image.size)) or 1
            image = image.resize((image.width * factor, image.height * factor), Pillow.Resampling.NEAREST)
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"image_png_base64": base64.b64encode(buffer.getvalue()).decode()}

    def augmented(self, rows: Dataset, *, num: int, seed: int, tokenizer: Any, embeddings: np.ndarray) -> Sequence[Any]:
        """Nothing: rows are not made out of images."""
        return []

    def augmented_rows(self, made: Sequence[Any], *, first_row_id: int, no_label: np.ndarray) -> Dataset:
        """No rows."""
        return Dataset.from_dict({"image": list(made), "label": no_label, "row_id": []})

    def passes(self, *, has_maps: bool) -> tuple[float, float]:
        """Sixteen passes, at 2e-3 for convolutional nets and 1e-3 for others."""
        return 16.0, 2e-3 if has_maps else 1e-3


def _image_column(dataset: Dataset, column: str, folder: Path | None) -> pa.ChunkedArray:
    feature = dataset.features[column]
    values = table_of(dataset, [column]).column(0)
    if isinstance(feature, Image) or pa.types.is_struct(values.type):
        return values
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        paths = [str(Path(folder or ".") / str(value)) for value in values.to_pylist()]
        return pa.chunked_array([images.image_array(paths)])
    return values


def _per_channel(values: Any) -> list[float]:
    return [float(value) for value in (values if isinstance(values, list | tuple) else [values])]
