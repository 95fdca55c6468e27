"""Image folders, and the decoding of one image whatever form it comes in."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from potstill.data.arrow import dataset_of
from potstill.data.tables import read_table
from potstill.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_UNREADABLE = (OSError, UnidentifiedImageError, ValueError, TypeError, SyntaxError, PillowImage.DecompressionBombError)
IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def image_files(folder: Path) -> list[Path]:
    """The images directly or anywhere below a folder, sorted by path; hidden files are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def class_folders(folder: Path) -> list[Path]:
    """The sub-folders that hold images, sorted by name."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and any(_images_below(path))
    )


def _images_below(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def read_class_folders(folder: Path, *, labelled: bool = True) -> Dataset:
    """An image folder whose sub-folders are the classes → columns ``image`` and ``label``; without labels only ``image``."""
    if not labelled:
        features = Features({"image": Image()})
        images = image_array([str(path) for path in image_files(folder)])
        return dataset_of(pa.table({"image": images}).cast(features.arrow_schema))
    classes = class_folders(folder)
    files = [(path, label) for label, name in enumerate(classes) for path in image_files(name)]
    features = Features({"image": Image(), "label": ClassLabel(names=[path.name for path in classes])})
    images = image_array([str(path) for path, _ in files])
    return dataset_of(
        pa.table({"image": images, "label": pa.array([label for _, label in files], pa.int64())}).cast(features.arrow_schema)
    )


def image_array(paths: list[str]) -> pa.Array:
    """Paths → an Arrow array of images whose bytes stay on disk."""
    return pa.array([{"bytes": None, "path": path} for path in paths], IMAGE_TYPE)


def read_metadata_folder(folder: Path, metadata: Path) -> Dataset:
    """An image folder with ``metadata.jsonl`` or ``.csv``: its columns, with ``file_name`` made into ``image``.

    Raises:
        DataError: No ``file_name`` column, or files that do not exist.
    """
    table = read_table(metadata)
    if "file_name" not in table.column_names:
        raise DataError(
            f"{metadata} has no column 'file_name' (it has {', '.join(map(repr, table.column_names))})",
            "one row an image with file_name and label",
            "rename the column that holds the file names to file_name",
        )
    names = table.column("file_name").to_pylist()
    missing = [row for row, name in enumerate(names, 1) if not name or not (folder / str(name)).is_file()]
    if missing:
        raise DataError(
            f"row {missing[0]} of {metadata} names {names[missing[0] - 1]!r}, which is not there ({len(missing)} such rows)",
            "file names relative to the folder of the metadata",
            "copy the images there, or remove these rows",
        )
    images = image_array([str(folder / str(name)) for name in names])
    table = table.set_column(table.column_names.index("file_name"), "image", images)
    return dataset_of(table).cast_column("image", Image())


def name_of(value: Any, row: int) -> str:
    """An image as a person would name it: its path where it has one, else its row."""
    path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    return f"{path}" if path else f"the image in row {row + 1}"


def decode(value: Any, row: int, *, mode: str = "RGB") -> PillowImage.Image:
    """One image out of a ``{"bytes", "path"}`` dict, bytes, a path, a Pillow image, or pixels [H, W] or [H, W, C] of 0–255.

    `row`, counted from 0, names it in errors.

    Raises:
        DataError: The image is corrupt or missing; names it.
    """
    try:
        return _in_eight_bits(_upright(_opened(value))).convert(mode)
    except _UNREADABLE as err:
        raise corrupt_image(value, row, err) from err


def _upright(image: PillowImage.Image) -> PillowImage.Image:
    """The image turned as its EXIF data say; as it is where they cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, KeyError, TypeError, ZeroDivisionError, struct.error):
        return image


def _in_eight_bits(image: PillowImage.Image) -> PillowImage.Image:
    """A grey image of 16 or 32 bits or of floats in values of 0 to 255, which Pillow would cut off at 255; others as they are."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    pixels = np.asarray(image).astype(np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high < 2**32):
        raise ValueError(f"grey values of {low:g} to {high:g}")
    top = 1.0 if image.mode == "F" and high <= 1 else next(top for top in (2**8 - 1, 2**16 - 1, 2**32 - 1) if high <= top)
    top = 2.0**16 - 1 if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG") else top
    return PillowImage.fromarray(np.rint(pixels * (255 / top)).astype(np.uint8))


def _opened(value: Any) -> PillowImage.Image:
    if isinstance(value, PillowImage.Image):
        return value
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return PillowImage.open(io.BytesIO(value))
    if isinstance(value, str | Path):
        return PillowImage.open(value)
    if value is None:
        raise ValueError("there is no image")
    pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    is_share = np.issubdtype(pixels.dtype, np.floating) and pixels.max() <= 1
    if pixels.ndim not in (2, 3) or pixels.min() < 0 or pixels.max() > 255 or is_share:
        raise ValueError(
            f"pixels of shape {pixels.shape} and range {pixels.min()} to {pixels.max()}, not [H, W] or [H, W, C] of 0 to 255"
        )
    pixels = pixels.astype(np.uint8)
    return PillowImage.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def corrupt_image(value: Any, row: int, err: Exception) -> DataError:
    """The error for an image that cannot be read."""
    reason = str(err).split("<")[0].strip() or type(err).__name__
    return DataError(
        f"{name_of(value, row)} cannot be read as an image ({reason})",
        f"whole images ({', '.join(suffix[1:] for suffix in SUFFIXES[:7])})",
        "replace or remove it, or leave such images out with data.skip_corrupt: true",
    )


def is_readable(value: Any, *, whole: bool) -> Exception | None:
    """None where an image can be read (`whole`: with all its pixels, not the header alone), else what is wrong."""
    try:
        image = _opened(value)
        if whole:
            image.load()
    except _UNREADABLE as err:
        return err
    return None


def size_of(processor: Any) -> tuple[int, int] | None:
    """(H, W) of the images that a processor makes, or None where that depends on the image."""
    if getattr(processor, "do_center_crop", False) and (sides := sides_of(getattr(processor, "crop_size", None))):
        return sides
    return sides_of(getattr(processor, "size", None)) if getattr(processor, "do_resize", False) else None


def sides_of(size: Any) -> tuple[int, int] | None:
    """(H, W) of a size as processors and configurations write it; None where it says no such thing."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    height, width = (size.get("height"), size.get("width")) if hasattr(size, "get") else (None, None)
    return (int(height), int(width)) if height and width else None
