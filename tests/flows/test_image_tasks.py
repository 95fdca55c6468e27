"""Several labels and numbers on images: from a folder with a table to a served student."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from datasets import List as ListFeature
from PIL import Image as Pillow
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from potstill import DistillationPipeline, load, tasks

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 8, "learning_rate": 3e-3},
    "student": {"ratio": 0.5},
    "distill": {"epochs": 4, "learning_rate": 3e-3},
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits with a metadata table: whether each is even, whether it is small, and its darkness with a fraction."""
    place, held = tmp_path_factory.mktemp("digits"), load_digits(n_class=4)
    with (place / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", "even", "small", "darkness"])
        for index, (image, label) in enumerate(zip(held.images[:160], held.target)):
            name = f"{index:03d}.png"
            Pillow.fromarray((image * 15).astype(np.uint8)).save(place / name)
            writer.writerow([name, int(label % 2 == 0), int(label < 2), f"{image.mean():.3f}"])
    return place


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer without a head."""
    place = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(**size, image_size=16, patch_size=8)).save_pretrained(place)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "label", "metric"),
    [("image-multi-label", ["even", "small"], "micro_f1"), ("image-regression", ["darkness"], "concordance")],
)
def test_images_have_several_labels_or_numbers(
    task: str, label: list[str], metric: str, vit: Path, folder: Path, tmp_path: Path
) -> None:
    config = {**CONFIG, "task": task, "data": {"columns": {"label": label}}}
    metrics = DistillationPipeline(vit, folder, config, tmp_path / "out").run()
    assert (metrics.task, metrics.metric) == (task, metric)
    assert metrics.models["teacher"].quality[metric] > 0.5
    assert metrics.worst_examples == [] or metrics.worst_examples[0].image_png_base64
    model, _ = load(tmp_path / "out")
    assert model.config.num_labels == len(label)
    assert tasks.infer(model.config).name == task


def test_the_columns_say_what_an_image_has(folder: Path) -> None:
    from potstill.data import load as load_data
    from potstill.data.sources import read_source
    from potstill.tasks.inference import kind_of_labels

    image = tasks.build("image-classification").modality
    rows = read_source(folder, modality=image).splits["train"]
    assert kind_of_labels(rows, {"label": ["even", "small"]}) == "labels"
    assert kind_of_labels(rows, {"label": "darkness"}) == "numbers"
    splits = load_data(folder, task=tasks.build("image-regression"), columns={"label": "darkness"})
    assert splits.label_names == ("darkness",)
    assert np.asarray(splits.train["label"]).shape == (len(splits.train), 1)


def test_lists_of_names_are_labels_of_images() -> None:
    from potstill.data import load as load_data

    pictures = [Pillow.fromarray(np.full((8, 8, 3), shade, np.uint8)) for shade in range(40)]
    names = [["dark"] if shade < 20 else ["light", "large"] for shade in range(40)]
    features = Features({"image": Image(), "tags": ListFeature(Value("string"))})
    rows = Dataset.from_dict({"image": pictures, "tags": names}, features=features)
    splits = load_data(rows, task=tasks.build("image-multi-label"))
    assert splits.label_names == ("dark", "large", "light")
    assert set(map(tuple, splits.train["label"])) == {(1.0, 0.0, 0.0), (0.0, 1.0, 1.0)}
