"""How labels may be written: vectors, lists as text, names made of digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import List as ListFeature

from potstill import tasks
from potstill.data import load
from potstill.data.written_lists import read_list
from potstill.errors import DataError

TEXTS = [f"text {i}" for i in range(30)]
VECTORS = [[i % 2, (i // 2) % 2, 1 - i % 2] for i in range(30)]
NAMED = [[["toxic", "insult"], ["toxic"], []][i % 3] for i in range(30)]


def _load(source: Any, task: str = "multi-label", **options: Any) -> Any:
    return load(source, task=tasks.build(task), **options)


def _rows(labels: list) -> Dataset:
    return Dataset.from_dict({"text": TEXTS, "labels": labels})


@pytest.mark.parametrize("kind", [int, float, bool])
@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_vectors_of_zeros_and_ones(kind: type, names: list[str] | None) -> None:
    splits = _load(_rows([[kind(flag) for flag in row] for row in VECTORS]), label_names=names)
    assert splits.label_names == tuple(names or "012")
    for text, row in zip(splits.train["text"], splits.train["label"]):
        assert list(row) == VECTORS[TEXTS.index(text)]


def test_vectors_keep_their_places_where_names_are_numbers() -> None:
    rows = [[0, i % 2, 1 - i % 2] if i % 3 else [0, 1, 1] for i in range(30)]
    splits = _load(_rows(rows), label_names=["1", "2", "3"])
    for text, row in zip(splits.train["text"], splits.train["label"]):
        assert list(row) == rows[TEXTS.index(text)]


def test_two_numbers_of_more_labels_are_no_vectors() -> None:
    splits = _load(_rows([[i % 2, 1 - i % 2] for i in range(30)]), label_names=["a", "b", "c"])
    assert {tuple(row) for row in splits.train["label"]} == {(1, 1, 0)}


def test_numbers_of_class_labels_are_no_vectors() -> None:
    features = Features({"text": Value("string"), "labels": ListFeature(ClassLabel(names=["a", "b", "c"]))})
    rows = Dataset.from_dict({"text": TEXTS, "labels": [[0, 1] if i % 2 else [1, 0] for i in range(30)]}, features=features)
    assert {tuple(row) for row in _load(rows, label_names=["a", "b", "c"]).train["label"]} == {(1, 1, 0)}


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([*VECTORS[:-1], [1, 0]], None, ["several lengths: 3 places, and 2 in row 30", "as many in every row"]),
        (VECTORS, ["a", "b"], ["vectors of 3 labels", "teacher has 2 labels"]),
        (["[toxic, insult]", "[x]"] * 15, None, ["looks like a list but cannot be read so", "write all rows alike"]),
        ([*map(str, NAMED[:-1]), "oops"], None, ["in row 1 ", "looks like a list but cannot be read so"]),
    ],
)
def test_refused_forms(labels: list, names: list[str] | None, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        _load(_rows(labels), label_names=names)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("form", [str, lambda row: str(np.array(row)), lambda row: str(row).replace("'", '"'), tuple])
def test_lists_in_a_csv(form: Any, tmp_path: Path) -> None:
    pd.DataFrame({"text": TEXTS, "labels": [form(row) for row in NAMED]}).to_csv(tmp_path / "a.csv", index=False)
    splits = _load(tmp_path / "a.csv")
    assert splits.label_names == ("insult", "toxic")
    for text, row in zip(splits.train["text"], splits.train["label"]):
        assert list(row) == [float(name in NAMED[TEXTS.index(text)]) for name in splits.label_names]


def test_one_class_refuses_written_lists() -> None:
    with pytest.raises(DataError, match=r"holds a list in row 1 .*set task: multi-label"):
        _load(_rows(list(map(str, NAMED))), "text-classification")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("['don\\'t' \"it's, ok\"]", ["don't", "it's, ok"]),
        ("[1. 0.]", [1.0, 0.0]),
        ("[True False]", [True, False]),
        ("[np.int64(1), np.int64(0)]", [1, 0]),
        ("array(['a'], dtype=object)", ["a"]),
        ("{'b', 'a'}", ["a", "b"]),
        ("[]", []),
        ("[A]", None),
        ("(see) it (now)", None),
        ("toxic", None),
    ],
)
def test_read_list(text: str, value: Any) -> None:
    assert read_list(text) == value


@pytest.mark.parametrize(
    "names",
    [
        ["001", "011"],
        ["1", "01", "001"],
        ["9007199254740992", "9007199254740993"],
        ["+1", "-0", "1.0"],
        ["１", "1"],
        ["00", "0"],
        ["123456789012345678901234567890", "5"],
    ],
)
def test_names_made_of_digits_stay_names(names: list[str], tmp_path: Path) -> None:
    labels = [names[i % len(names)] for i in range(30)]
    pd.DataFrame({"text": TEXTS, "label": labels}).to_csv(tmp_path / "a.csv", index=False)
    splits = _load(tmp_path / "a.csv", "text-classification")
    assert set(splits.label_names) == set(names)
    for text, label in zip(splits.train["text"], splits.train["label"]):
        assert splits.label_names[label] == labels[TEXTS.index(text)]
    again = _load(tmp_path / "a.csv", "text-classification", label_names=sorted(names))
    assert again.label_names == tuple(sorted(names))


def test_numbers_of_a_table_with_gaps_are_positions() -> None:
    splits = _load(_rows(["1.0", "0.0"] * 15).rename_column("labels", "label"), "text-classification", label_names=["no", "yes"])
    assert all(label == 1 - TEXTS.index(text) % 2 for text, label in zip(splits.train["text"], splits.train["label"]))


def test_floats_that_are_no_longer_exact_are_refused() -> None:
    with pytest.raises(DataError, match="beyond 2\\^53"):
        _load(_rows([2.0**60, 1.0] * 15).rename_column("labels", "label"), "text-classification")
