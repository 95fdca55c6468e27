"""Whole runs across architectures: transformers teach convolutional nets and the reverse, and networks of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from sklearn.datasets import load_digits

import potstill
from flows.small_families import image_teacher
from flows.test_families import TINY, distilled
from knowledge.user_nets import Small, with_processor
from potstill import DistillationPipeline
from potstill.errors import ModelError
from potstill.models import factory

DIGITS = ("0", "1", "2")
CONV: dict[str, Any] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2},
    "mobilenet_v2": {"depth_multiplier": 0.1, "depth_divisible_by": 4, "min_depth": 4, "finegrained_output": False},
    "vit": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    },
}
RELATION = ["kl", "rkd_distance", {"name": "ce", "weight": 0.3}]
BRIDGED = [{"name": "kl", "temperature": 4}, {"name": "sp", "layers": [["hidden:-1", "hidden:-1"]]}, "srd"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of scikit-learn's digits as an image folder."""
    folder, held = tmp_path_factory.mktemp("digits"), load_digits(n_class=3)
    for index, (image, label) in enumerate(zip(held.images[:90], held.target)):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / str(label) / f"{index:03d}.png")
    return folder


def student(folder: Path, kind: str) -> str:
    """A configuration without weights."""
    transformers.AutoConfig.for_model(kind, **CONV[kind]).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("teacher", "kind", "losses"),
    [
        ("vit", "mobilenet_v2", RELATION),
        pytest.param("vit", "convnext", BRIDGED, marks=pytest.mark.slow),
        pytest.param("vit", "resnet", BRIDGED, marks=pytest.mark.slow),
        pytest.param("convnext", "vit", BRIDGED, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "vit", RELATION, marks=pytest.mark.slow),
        pytest.param("resnet", "mobilenet_v2", [{"name": "at", "layers": [[1, 1]]}, "kl"], marks=pytest.mark.slow),
    ],
)
def test_across_architectures(teacher: str, kind: str, losses: list[Any], digits: Path, tmp_path: Path) -> None:
    folder = image_teacher(tmp_path / "teacher", teacher, labels=DIGITS)
    named = student(tmp_path / "named", kind)
    metrics = distilled(tmp_path / "out", folder, digits, ratio=None, student_arch=named, losses=losses)
    assert metrics.models["student"].flops


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rkd", "dkd", "review_kd", "crd"])
def test_methods_across_convolutional_nets(method: str, digits: Path, tmp_path: Path) -> None:
    folder = image_teacher(tmp_path / "teacher", "convnext", labels=DIGITS)
    distilled(
        tmp_path / "out", folder, digits, ratio=None, student_arch=student(tmp_path / "named", "mobilenet_v2"), method=method
    )


def test_networks_named_as_code_teach_and_learn(digits: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {
        **TINY,
        "teacher": {"from_scratch": True, "epochs": 1, "trust_remote_code": True},
        "student": {"model": "knowledge.user_nets:build", "trust_remote_code": True},
        "method": "at",
    }
    metrics = DistillationPipeline("knowledge.user_nets:with_processor", digits, config=config, output_dir=tmp_path / "out").run()
    assert metrics.models["student"].quality["accuracy"] is not None
    with pytest.raises(ModelError, match=r"trust_remote_code=True"):
        untrusted_load(tmp_path / "out")
    assert potstill.load(tmp_path / "out", trust_remote_code=True)[0].config.factory == "knowledge.user_nets:build"


def untrusted_load(folder: Path) -> Any:
    """As a process that has not run the recipe loads it."""
    factory._trusted.clear()
    return potstill.load(folder)


@pytest.mark.slow
def test_a_network_in_memory_teaches_a_planned_student(digits: Path, tmp_path: Path) -> None:
    network = Small(24, classes=3)
    metrics = distilled(
        tmp_path / "out",
        network,
        digits,
        processor=with_processor()[1],
        student={"architecture": "cnn", "ratio": 0.6},
        ratio=None,
    )
    assert metrics.models["student"].parameters is not None
