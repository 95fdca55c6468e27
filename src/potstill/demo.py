"""The demo's inputs: scikit-learn's scanned digits as an image folder, and a small vision transformer to be taught them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from potstill.errors import MissingExtra
from potstill.ground.disk import explained_os_errors

NUM_VALIDATION, NUM_TEST = 180, 360
IMAGE_SIDE, BRIGHTEST = 8, 16
MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))

# 0.80 M parameters; four patches of 4 x 4 pixels an image.
TEACHER_SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "image_size": IMAGE_SIDE,
    "patch_size": 4,
    "num_channels": 3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TEACHER_TRAINING: dict[str, Any] = {"from_scratch": True, "epochs": 10, "learning_rate": 1e-3, "batch_size": 64}
STUDENT_TRAINING: dict[str, Any] = {"epochs": 30, "learning_rate": 2e-3, "batch_size": 64, "temperature": 4.0}


def prepare_demo(output: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """Write the digits and the teacher's shape next to the output folder, and return the settings of a recipe.

    Args:
        output: Folder of the run; the inputs go into ``<output>-input/data`` and ``<output>-input/teacher``.

    Returns:
        Settings for `potstill.recipe.make_recipe`.

    Raises:
        MissingExtra: scikit-learn is not installed.
        OutputError: The folder cannot be written.
    """
    output = Path(output)
    inputs = output.with_name(f"{output.name}-input")
    with explained_os_errors(inputs):
        data = write_digits(inputs / "data")
        teacher = write_teacher(inputs / "teacher")
    return {
        "teacher": {"model": str(teacher), **TEACHER_TRAINING},
        "data": {"source": str(data)},
        "student": {"ratio": 0.9},
        "distill": dict(STUDENT_TRAINING),
        "baseline": True,
        "precision": "fp32",
        "seed": seed,
        "output": str(output),
    }


def write_digits(folder: Path) -> Path:
    """Write scanned digits as ``<split>/<digit>/<row>.png``; a folder that is already there is kept.

    Of the 1,797 digits, 1,257 are for training, each five times: as it is and moved by one pixel in four directions.

    *Source*: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), as scikit-learn ships it.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    if folder.is_dir():
        return folder
    try:
        from sklearn.datasets import load_digits
    except ImportError as err:
        raise MissingExtra("the demo", "demo") from err
    digits = load_digits()
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, rows in split_rows(digits.target).items():
        for row in rows:
            pixels = np.round(digits.images[row] * (255 / BRIGHTEST)).astype(np.uint8)
            _write_images(
                partial / split / str(digits.target[row]), f"{row:04d}", moved(pixels) if split == "train" else [pixels]
            )
    return partial.replace(folder)


def moved(pixels: np.ndarray) -> list[np.ndarray]:
    """An image [H, W] as it is, and moved by one pixel up, down, left and right with black let in."""
    frame = np.pad(pixels, 1)
    height, width = pixels.shape
    return [frame[1 + down : 1 + down + height, 1 + right : 1 + right + width] for down, right in MOVES]


def _write_images(folder: Path, name: str, images: Sequence[np.ndarray]) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images):
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name}-{number}.png")


def split_rows(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of train, validation and test, each with the same share of every digit, always the same ones."""
    from sklearn.model_selection import train_test_split

    rest, test = train_test_split(np.arange(len(labels)), test_size=NUM_TEST, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=NUM_VALIDATION, stratify=labels[rest], random_state=0)
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def write_teacher(folder: Path) -> Path:
    """Write the teacher's config and image processor, without weights: the `teach` stage starts from random ones."""
    from transformers import ViTConfig, ViTImageProcessor

    names = [str(digit) for digit in range(10)]
    config = ViTConfig(**TEACHER_SHAPE, id2label=dict(enumerate(names)), label2id={name: at for at, name in enumerate(names)})
    config.architectures = ["ViTForImageClassification"]
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    processor = ViTImageProcessor(size=side, do_resize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
