"""Values that a file should not have, refused with their place; images as a person sees them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from potstill import tasks
from potstill.data import load
from potstill.data.images import decode
from potstill.errors import DataError
from potstill.modalities.text.augment_words import augment_words

WORDS = [["a", "b"]] * 30


def _load(source: Any, task: str, **options: Any) -> Any:
    return load(source, task=tasks.build(task), **options)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '[\n{"text": "a", "label": "b"},\n', ["ends in the middle, at line 3", "copy or write it again"]),
        ("a.json", '[{"text": "a", "label": "b"},', ["line 1", "not valid JSON"]),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "\\ud83d", "label": "b"}\n', ["line 2", "half of a character"]),
        ("a.json", '[{"text": "a", "label": "\\udc00"}]', ["line 1", "half of a character"]),
        ("a.jsonl", '{"text": "a", "label": 99999999999999999999}\n', ["beyond 64 bits at line 1", "in quotes"]),
    ],
)
def test_broken_json(name: str, content: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(DataError) as caught:
        _load(tmp_path / name, "text-classification")
    assert all(word in str(caught.value) for word in words), caught.value


def _questions(answer: Any) -> Dataset:
    rows = [{"question": f"who {i}?", "context": "Ada wrote it", "answers": answer} for i in range(30)]
    return Dataset.from_list(rows)


@pytest.mark.parametrize("start", [0, 0.0, None, float("nan")])
def test_places_of_answers(start: Any) -> None:
    splits = _load(_questions({"text": ["Ada"], "answer_start": [start]}), "question-answering")
    assert splits.train["label"][0] == [{"text": "Ada", "answer_start": 0}]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"text": ["Ada", "it"], "answer_start": [0]}, ["2 answers and 1 places", "as many entries"]),
        ({"text": ["Ada"], "answer_start": [0.5]}, ["answer_start 0.5", "whole number"]),
        ({"text": ["Ada"], "answer_start": ["x"]}, ["answer_start 'x'", "correct row 1"]),
    ],
)
def test_answers_that_do_not_fit(answer: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        _load(_questions(answer), "question-answering")
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("number", [1e39, -1e39, float("inf"), "1e400"])
def test_numbers_beyond_float32(number: Any) -> None:
    rows = Dataset.from_dict({"text": [f"t {i}" for i in range(30)], "score": [*map(type(number), range(29)), number]})
    with pytest.raises(DataError, match=r"row 30 .*(beyond what float32 holds|infinite)"):
        _load(rows, "regression")


def test_minus_hundred_is_no_class() -> None:
    rows = Dataset.from_dict({"tokens": WORDS, "tags": [[i % 2, -100] for i in range(30)]})
    splits = _load(rows, "token-classification")
    assert splits.label_names == ("0", "1")
    assert {tag for row in splits.train["label"] for tag in row} == {0, 1, -100}
    one = Dataset.from_dict({"text": [f"t {i}" for i in range(30)], "label": [*[0, 1] * 14, -100, -100]})
    with pytest.raises(DataError, match="2 of 30 rows of the train split have no label"):
        _load(one, "text-classification")


def test_empty_words_are_kept_and_no_new_rows_have_them() -> None:
    made = augment_words([["one", "", "two", " ", "three"], ["", "a", "b", "c"], ["", ""]], num=6, seed=0)
    assert made
    assert all(word.strip() for row in made for word in row)
    rows = Dataset.from_dict({"tokens": [["a", "", "b"]] * 30, "tags": [[i % 2, 0, 1] for i in range(30)]})
    assert any("empty words of the train split: 30" in note for note in _load(rows, "token-classification").notes)


PIXELS = np.zeros((8, 12, 3), np.uint8)
PIXELS[:3, :5, 0] = 255
TURNS = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


def _bytes(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", TURNS)
def test_photos_stand_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](PIXELS)))
    assert (np.asarray(decode({"bytes": _bytes(stored, exif=exif)}, 0)) == PIXELS).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sixteen_bits_are_scaled(mode: str) -> None:
    grey = np.linspace(0, 65535, 96).reshape(8, 12).astype(np.uint16)
    found = np.asarray(decode({"bytes": _bytes(Image.fromarray(grey))}, 0, mode=mode))
    assert np.abs((found if mode == "L" else found[:, :, 0]).astype(float) - grey / 257).max() <= 0.51


def test_floats_and_dark_sixteen_bits() -> None:
    share = np.linspace(0, 1, 96, dtype=np.float32).reshape(8, 12)
    assert np.asarray(decode(Image.fromarray(share), 0))[-1, -1, 0] == 255
    assert np.asarray(decode({"bytes": _bytes(Image.fromarray(np.full((4, 4), 200, np.uint16)))}, 0)).max() == 1
    with pytest.raises(DataError, match="grey values of -1"):
        decode(Image.fromarray(share - 1), 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_is_read(mode: str) -> None:
    assert decode(Image.fromarray(PIXELS).convert(mode), 0).mode == "RGB"
