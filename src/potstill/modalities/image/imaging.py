"""Images → resized bytes on disk, once, exactly as the model's image processor resizes them."""

# N images, C channels, H height, W width

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image

from potstill.data.encoded import EncodedImages, batches_of, has_rows
from potstill.data.fingerprint import hash_of, rows_hash
from potstill.data.images import decode
from potstill.data.row_files import ImageWriter
from potstill.errors import DataError

_BATCH_ROWS = 256


def encode_images(dataset: Dataset, processor: Any, folder: Path) -> EncodedImages:
    """Decode and resize every image into a folder, or open it where it holds the same already.

    Images are brought to the processor's channels (RGB or grey), and the processor itself resizes and crops; scaling and
    normalising are left to the collator, so that a pixel takes one byte.

    Raises:
        DataError: An image cannot be read, or the processor gives images of different sizes.
    """
    fingerprint = hash_of("upright images", rows_hash(dataset), processor_hash(processor))
    if has_rows(folder, fingerprint):
        return EncodedImages(folder)
    writer = ImageWriter(folder)
    for name in ("row_ids", "labels", "pixels"):
        writer.append(name, np.zeros(0, np.uint8))
    for rows in _decoded(dataset, num_channels(processor)):
        pixels = _resized(processor, [row.pop("image") for row in rows])
        if writer.rows and pixels.shape[1:] != writer.shape:
            raise _sizes_differ(writer.shape, pixels.shape[1:])
        writer.add([row | {"pixel_values": image} for row, image in zip(rows, pixels)])
    writer.close(fingerprint)
    return EncodedImages(folder)


def _decoded(dataset: Dataset, channels: int) -> Iterator[list[dict[str, Any]]]:
    if isinstance(dataset.features["image"], Image):
        dataset = dataset.cast_column("image", Image(decode=False))
    mode = "L" if channels == 1 else "RGB"
    for rows in batches_of(len(dataset), _BATCH_ROWS):
        batch = dataset[rows.start : rows.stop]
        yield [
            {"row_id": row_id, "labels": label, "image": decode(value, number, mode=mode)}
            for number, row_id, label, value in zip(rows, batch["row_id"], batch["label"], batch["image"])
        ]


def _resized(processor: Any, images: list[Any]) -> np.ndarray:
    options = {"do_convert_rgb": False} if hasattr(processor, "do_convert_rgb") else {}
    try:
        pixels = processor(images, do_rescale=False, do_normalize=False, return_tensors="np", **options)["pixel_values"]
    except ValueError as err:
        if "same" in str(err) or "inhomogeneous" in str(err):
            raise _sizes_differ(*sorted({image.size[::-1] for image in images})[:2]) from err
        raise
    pixels = np.asarray(pixels)
    return pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _sizes_differ(*shapes: tuple[int, ...]) -> DataError:
    sizes = " and ".join("×".join(str(side) for side in shape[-2:]) for shape in shapes)
    return DataError(
        f"images have different sizes after the image processor ({sizes})",
        "an image processor that brings all images to one size",
        'set "do_resize": true and a "size" in the teacher\'s preprocessor_config.json',
    )


def num_channels(processor: Any) -> int:
    """Channels of the images that a processor makes: 1 where it has one mean, else 3."""
    mean = getattr(processor, "image_mean", None)
    return 1 if isinstance(mean, list | tuple) and len(mean) == 1 else 3


def processor_hash(processor: Any) -> str:
    """The hash of what a processor does to an image before scaling and normalising."""
    names = (
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "crop_size",
        "crop_pct",
        "do_pad",
        "pad_size",
        "default_to_square",
    )
    settings = [f"{name}={_plain(getattr(processor, name, None))}" for name in names]
    return hash_of(type(processor).__name__, *settings, str(num_channels(processor)))


def _plain(value: Any) -> str:
    return (
        str(sorted((key, item) for key, item in dict(value).items() if item is not None))
        if hasattr(value, "keys")
        else str(value)
    )
