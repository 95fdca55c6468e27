"""The demo's inputs: whole, always the same, and refused clearly without scikit-learn."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from potstill.demo import moved, prepare_demo, write_digits, write_teacher
from potstill.errors import MissingExtra

pytest.importorskip("sklearn")


def test_the_digits_are_split_without_overlap_and_written_once(tmp_path) -> None:
    folder = write_digits(tmp_path / "data")
    rows = {split: {file.name[:4] for file in (folder / split).rglob("*.png")} for split in ("train", "validation", "test")}
    assert [len(found) for found in rows.values()] == [1257, 180, 360]
    assert not rows["train"] & rows["test"]
    assert not rows["train"] & rows["validation"]
    assert not rows["validation"] & rows["test"]
    before = (folder / "train" / "0").stat().st_mtime_ns
    assert write_digits(folder) == folder
    assert (folder / "train" / "0").stat().st_mtime_ns == before
    assert not (tmp_path / "data.partial").exists()


def test_an_image_moves_by_one_pixel_each_way() -> None:
    image = np.arange(1, 10, dtype=np.uint8).reshape(3, 3)
    here, up, down, left, right = moved(image)
    assert np.array_equal(here, image)
    assert np.array_equal(up, [[4, 5, 6], [7, 8, 9], [0, 0, 0]])
    assert np.array_equal(down, [[0, 0, 0], [1, 2, 3], [4, 5, 6]])
    assert np.array_equal(left, [[2, 3, 0], [5, 6, 0], [8, 9, 0]])
    assert np.array_equal(right, [[0, 1, 2], [0, 4, 5], [0, 7, 8]])


def test_the_teacher_folder_has_a_shape_and_a_processor_but_no_weights(tmp_path) -> None:
    from transformers import AutoConfig, AutoModelForImageClassification

    folder = write_teacher(tmp_path / "teacher")
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "preprocessor_config.json"]
    model = AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(folder))
    assert 0.3e6 < model.num_parameters() < 1e6
    assert model.config.num_labels == 10


def test_the_settings_are_a_recipe_and_inputs_lie_beside_the_output(tmp_path, monkeypatch) -> None:
    from potstill.recipe import make_recipe

    monkeypatch.setattr("potstill.demo.write_digits", lambda folder: folder)
    recipe = make_recipe(prepare_demo(tmp_path / "demo", seed=3))
    assert recipe.seed == 3
    assert recipe.baseline
    assert recipe.student.ratio == 0.9
    assert not (tmp_path / "demo").exists()


def test_without_scikit_learn_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"potstill\[demo\]"):
        write_digits(tmp_path / "data")
