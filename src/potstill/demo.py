"""The demo's inputs: scikit-learn's scanned digits as an image folder, and a small vision transformer to be taught them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from potstill.disk import explained_os_errors
from potstill.errors import MissingExtra

NUM_VALIDATION, NUM_TEST = 180, 360
IMAGE_SIDE, BRIGHTEST = 8, 16

# 0.80 M parameters; four patches of 4 x 4 pixels an image.
TEACHER_SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "image_size": IMAGE_SIDE,
    "patch_size": 4,
    "num_channels": 3,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
TEACHER_TRAINING: dict[str, Any] = {"from_scratch": True, "epochs": 40, "learning_rate": 1e-3, "batch_size": 32}


def prepare_demo(output: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """Write the digits and the teacher's shape beside the output folder, and return the settings of a recipe.

    Args:
        output: Folder of the run; the inputs go into ``<output>-input/data`` and ``<output>-input/teacher``.
        seed: Seed of the run; the split of the digits is always the same.

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
        "baseline": True,
        "seed": seed,
        "output": str(output),
    }


def write_digits(folder: Path) -> Path:
    """Write 1,797 scanned digits as ``<split>/<digit>/<row>.png``; a folder that is already there is kept.

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
    from PIL import Image

    digits = load_digits()
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, rows in split_rows(digits.target).items():
        for row in rows:
            pixels = np.round(digits.images[row] * (255 / BRIGHTEST)).astype(np.uint8)
            file = partial / split / str(digits.target[row]) / f"{row:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return partial.replace(folder)


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
