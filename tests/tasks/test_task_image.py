"""Image classification: model head, image size, example inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, ResNetConfig, ViTConfig, ViTImageProcessor

from potstill import tasks
from potstill.data.images import size_of
from potstill.errors import ModelError

CONFIGS = {
    "vit": ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    ),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic"),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_example_inputs_fit_the_model(family: str) -> None:
    task = tasks.build("image-classification")
    model = AutoModelForImageClassification.from_config(CONFIGS[family]).eval()
    inputs = task.example_inputs(model, batch=2)
    assert inputs["pixel_values"].shape[2] == (16 if family == "vit" else 224)
    assert torch.isfinite(model(**inputs).logits).all()
    assert task.dynamic_axes(model) == {"pixel_values": {0: "batch"}}


def test_the_size_comes_from_the_processor_where_the_model_does_not_say(tmp_path: Path) -> None:
    task = tasks.build("image-classification")
    model = AutoModelForImageClassification.from_config(CONFIGS["resnet"])
    ViTImageProcessor(size={"height": 8, "width": 12}).save_pretrained(tmp_path)
    task.load_processor(str(tmp_path), model_config=model.config)
    assert task.example_inputs(model)["pixel_values"].shape == (1, 3, 8, 12)
    model.save_pretrained(tmp_path)
    assert task.load_model(str(tmp_path), num_labels=4, label_names=list("abcd")).config.num_labels == 4


def test_sizes_of_processors() -> None:
    assert size_of(ViTImageProcessor(do_center_crop=True, crop_size={"height": 6, "width": 7})) == (6, 7)
    assert size_of(ViTImageProcessor(size={"shortest_edge": 9})) is None
    assert size_of(ViTImageProcessor(do_resize=False)) is None


def test_a_processor_for_other_channels_is_refused(tmp_path: Path) -> None:
    task = tasks.build("image-classification")
    ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="makes 3 channels, the model takes 1"):
        task.load_processor(str(tmp_path), model_config=ViTConfig(num_channels=1))
    with pytest.raises(ModelError, match="does not give an image processor"):
        task.load_processor(str(tmp_path / "nothing"))


def test_an_image_is_named_by_its_file() -> None:
    task = tasks.build("image-classification")
    assert task.text_of({"image": {"path": "x/cat.png", "bytes": None}, "row_id": 4}) == "cat.png"
    assert task.text_of({"image": {"path": None, "bytes": b""}, "row_id": 4}) == "image 4"
