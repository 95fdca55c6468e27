"""What bad data get: an error that says what was given, what is accepted and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from potstill import tasks
from potstill.data import load
from potstill.errors import DataError

ROWS = [{"text": f"text {i}", "label": "yes" if i % 2 else "no"} for i in range(20)]


def _file(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def _files(*names: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name in names:
            (folder / name).write_text("text,label\na,b\n", "utf-8")
        return folder

    return make


def _lines(*rows: object) -> str:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


def _rows(change: Callable[[int, dict], Any]) -> Callable[[Path], Dataset]:
    return lambda folder: Dataset.from_list([row | change(i, row) for i, row in enumerate(ROWS)])


CHINESE = "text,label\n这家酒店的服务很好，房间也很干净,好\n房间太小，早餐很差,坏\n".encode("gb18030")
CASES = {
    "missing file": (lambda folder: folder / "none.csv", ["none.csv does not exist", "image folder", "check the spelling"]),
    "misspelt file": (
        lambda folder: _file("reviews.csv", "text,label\na,b\n")(folder).with_name("reveiws.csv"),
        ["did you mean", "/reviews.csv?"],
    ),
    "unknown suffix": (_file("a.xlsx", "x"), ["a.xlsx has a suffix that is not known", ".jsonl", "convert"]),
    "empty file": (_file("a.jsonl", ""), ["a.jsonl is empty", "at least one row"]),
    "blank lines only": (_file("a.jsonl", "\n\n"), ["a.jsonl has no rows"]),
    "empty json": (_file("a.json", "  \n"), ["a.json is empty"]),
    "header only": (_file("a.csv", "text,label\n"), ["a.csv has no rows"]),
    "broken json line": (
        _file("a.jsonl", _lines(ROWS[0], '{"text": "oh", "label"', ROWS[1])),
        ["line 2 of", "a.jsonl is not valid JSON", "correct or remove line 2"],
    ),
    "json line that is no object": (_file("a.jsonl", _lines(ROWS[0], "[1, 2]")), ["line 2 of", "is a list, not an object"]),
    "broken json file": (_file("a.json", '[\n{"text": "a"},\n{"text" "b"}\n]'), ["line 3 of", "a.json is not valid JSON"]),
    "json without rows": (_file("a.json", '{"a": [1], "b": [1, 2]}'), ["holds no list of rows", "JSON Lines"]),
    "too many fields": (
        _file("a.csv", "text,label\ngood,yes\nwell, well,no\n"),
        ["line 3 of", "3 fields where the header has 2", "double quotes"],
    ),
    "open quote": (_file("a.csv", 'text,label\ngood,yes\n"bad,no\n'), ["line 3 of", "a.csv is broken", "close each quote"]),
    "repeated column": (_file("a.csv", "text,text,label\na,b,c\n"), ["more than one column 'text'", "rename"]),
    "chinese encoding": (_file("a.csv", CHINESE), ["line 2 of", "not UTF-8", "gb18030", "iconv -f GB18030 -t UTF-8", "服务很好"]),
    "western encoding": (_file("a.csv", "text,label\ncafé,yes\n".encode("cp1252")), ["line 2 of", "cp1252", "iconv"]),
    "utf-16": (_file("a.csv", "text,label\na,b\n".encode("utf-16")), ["utf-16", "iconv -f UTF-16"]),
    "not a parquet file": (_file("a.parquet", "text"), ["a.parquet is not a Parquet file"]),
    "not a gzip file": (_file("a.csv.gz", "text,label\n"), ["not a whole gzip file"]),
    "plain text with labels": (_file("a.txt", "one\ntwo\n"), ["has no labels", "data.unlabelled"]),
    "mixed types": (_file("a.jsonl", _lines(ROWS[0], {"text": 5, "label": "x"})), ["column 'text'", "mixes types", "line 2"]),
    "no text column": (
        lambda folder: Dataset.from_dict({"a": [1], "label": [1]}),
        ["no column", "the text", "'a', 'label'", "data.columns"],
    ),
    "two text columns": (
        _rows(lambda i, row: {"review": "x"}),
        ["more than one column could be the text: 'text', 'review'", "data.columns: {text: text}"],
    ),
    "two label columns": (
        _rows(lambda i, row: {"category": "x"}),
        ["more than one column could be the label: 'label', 'category'"],
    ),
    "one class": (_rows(lambda i, row: {"label": "yes"}), ["all 20 training rows have the label 'yes'", "at least two labels"]),
    "nan label": (
        lambda folder: Dataset.from_dict({"text": list("abcd"), "label": [0.0, 1.0, float("nan"), 1.0]}),
        ["1 of 4 rows of the train split has no label", "row 3", "data.unlabelled"],
    ),
    "infinite label": (
        lambda folder: Dataset.from_dict({"text": list("ab"), "label": [0.0, float("inf")]}),
        ["label inf in row 2", "is infinite"],
    ),
    "fractional label": (
        lambda folder: Dataset.from_dict({"text": list("ab"), "label": [0.5, 1.0]}),
        ["label 0.5 in row 1", "whole number"],
    ),
    "list label": (
        lambda folder: Dataset.from_dict({"text": ["a"], "label": [[1, 2]]}),
        ["holds a list in row 1", "one class a row"],
    ),
    "missing label": (_rows(lambda i, row: {"label": None if i == 4 else row["label"]}), ["1 of 20 rows", "row 5"]),
    "empty texts": (
        _rows(lambda i, row: {"text": " "}),
        ["all 20 texts of the train split are empty", "data.columns: {text: …}"],
    ),
    "texts that are lists": (lambda folder: Dataset.from_dict({"text": [["a"]], "label": [1]}), ["looks like the text"]),
    "too few rows": (
        lambda folder: Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}),
        ["2 training rows are too few to carve a validation split out", "data.validation: FILE"],
    ),
    "labels that are names of rows": (
        _rows(lambda i, row: {"label": f"id-{i}"}),
        ["each of the 20 training rows has a label of its own", "data.columns: {label: NAME}"],
    ),
    "no rows": (lambda folder: Dataset.from_dict({"text": [], "label": []}), ["the train split has no rows"]),
    "label that training lacks": (
        lambda folder: {
            "train": Dataset.from_list(ROWS),
            "test": Dataset.from_list([*ROWS[:3], {"text": "z", "label": "maybe"}]),
        },
        ["the test split has labels that training lacks: 'maybe' (1 of 4 rows)", "'no', 'yes'"],
    ),
    "no training split": (lambda folder: {"test": Dataset.from_list(ROWS)}, ["no training split (found: test)", "train.jsonl"]),
    "unknown splits": (
        lambda folder: {"one": Dataset.from_list(ROWS), "two": Dataset.from_list(ROWS)},
        ["the splits 'one', 'two'", "train, and optionally"],
    ),
    "empty folder": (lambda folder: folder, ["is empty"]),
    "folder of unnamed files": (
        _files("a.csv", "b.csv"),
        ["a.csv, b.csv", "none is named as a split"],
    ),
    "two files for a split": (
        _files("test_a.csv", "test_b.csv"),
        ["several files for the test split: test_a.csv, test_b.csv"],
    ),
    "part of a saved data set": (_file("state.json", "{}"), ["part of a `datasets` folder", "give"]),
    "nothing on the hub": (
        lambda folder: "nobody/nothing-here",
        ["neither a file or folder here nor a data set that the hub gives"],
    ),
    "wrong type": (lambda folder: 5, ["data is a int", "datasets.Dataset.from_list"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_text_data(case: str, tmp_path: Path) -> None:
    make, words = CASES[case]
    with pytest.raises(DataError) as caught:
        load(make(tmp_path), task=tasks.build("text-classification"))
    _assert_beats(caught.value, words)


def _assert_beats(error: DataError, words: list[str]) -> None:
    message = str(error)
    assert all(word in message for word in words), message
    assert "Accepted: " in message
    assert "What to do: " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"text": "txt"},
            ["column 'txt' (data.columns.text) is not in the data", "'text', 'label'", "data.columns: {text: text}"],
        ),
        ({"text": "text "}, ["column 'text '", "data.columns: {text: text}"]),
        ({"texts": "text"}, ["data.columns has the key 'texts'", "did you mean 'text'?"]),
    ],
)
def test_bad_columns(columns: dict[str, str], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        load(Dataset.from_list(ROWS), task=tasks.build("text-classification"), columns=columns)
    assert all(word in str(caught.value) for word in words)


def test_labels_of_another_teacher() -> None:
    with pytest.raises(DataError) as caught:
        load(Dataset.from_list(ROWS), task=tasks.build("text-classification"), label_names=["good", "bad"])
    _assert_beats(caught.value, ["data 'no', 'yes'", "teacher 'good', 'bad'", "only in the data", "only in the teacher"])


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file("a.csv", "text,label\na,b\n")(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("potstill.data.sources.read_table", refuse)
    with pytest.raises(DataError) as caught:
        load(path, task=tasks.build("text-classification"))
    _assert_beats(caught.value, ["permission denied", f"chmod u+r {path}"])


def _paths(rows: Dataset) -> list[str]:
    return [value["path"] for value in rows.cast_column("image", ImageFeature(decode=False))["image"]]


def _pets(folder: Path, broken: bytes) -> Path:
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for i in range(12):
            Image.fromarray(np.full((8, 8, 3), i * 9, np.uint8)).save(folder / label / f"{i:02}.png")
    (folder / "cat" / "05.png").write_bytes(broken)
    return folder


def test_a_corrupt_image_is_named_and_left_out_on_request(tmp_path: Path) -> None:
    task = tasks.build("image-classification")
    _pets(tmp_path, b"not an image")
    with pytest.raises(DataError) as caught:
        load(tmp_path, task=task)
    _assert_beats(caught.value, ["cat/05.png cannot be read as an image", "data.skip_corrupt: true"])
    splits = load(tmp_path, task=task, skip_corrupt=True)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 23
    assert any("1 image of the train split cannot be read and is left out" in note and "05.png" in note for note in splits.notes)


def test_an_image_cut_short_is_named_when_it_is_encoded(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from transformers import ViTImageProcessor

    task = tasks.build("image-classification")
    _pets(tmp_path, b"")
    whole = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(whole).save(tmp_path / "cat" / "05.png")
    (tmp_path / "cat" / "05.png").write_bytes((tmp_path / "cat" / "05.png").read_bytes()[:3000])
    splits = load(tmp_path, task=task)
    parts = (splits.train, splits.validation, splits.test)
    broken = next(part for part in parts if any("05.png" in str(path) and "cat" in str(path) for path in _paths(part)))
    with pytest.raises(DataError) as caught:
        task.encode(broken, ViTImageProcessor(size={"height": 8, "width": 8}), tmp_path_factory.mktemp("rows"))
    _assert_beats(caught.value, ["05.png cannot be read as an image", "truncated"])
    assert len(load(tmp_path, task=task, skip_corrupt=True).label_names) == 2


def test_metadata_of_images(tmp_path: Path) -> None:
    task = tasks.build("image-classification")
    (tmp_path / "metadata.csv").write_text("file_name,label\ngone.png,cat\n", "utf-8")
    with pytest.raises(DataError, match=r"row 1 of .*metadata\.csv names 'gone\.png'"):
        load(tmp_path, task=task)
    (tmp_path / "metadata.csv").write_text("name,label\ngone.png,cat\n", "utf-8")
    with pytest.raises(DataError, match="has no column 'file_name'"):
        load(tmp_path, task=task)
