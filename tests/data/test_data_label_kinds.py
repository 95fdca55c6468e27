"""Labels as sets of names and as numbers: every way of writing them gives the same arrays; what cannot be used is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from potstill import tasks
from potstill.answers.label_columns import kind_by_column
from potstill.data import load
from potstill.data.encoded import open_rows
from potstill.data.row_files import TextWriter
from potstill.errors import DataError

TEXTS = [f"text number {index} of many" for index in range(30)]
SETS: list[list[str]] = [[name for at, name in enumerate("abc") if (index >> at) & 1] for index in range(30)]


def multi(written: dict[str, Any], **settings: Any) -> Any:
    return load(Dataset.from_dict({"text": TEXTS, **written}), task=tasks.build("multi-label"), **settings)


def by_text(splits: Any) -> dict[str, list[float]]:
    return {row["text"]: row["label"] for part in (splits.train, splits.validation, splits.test) for row in part}


def test_lists_strings_and_columns_mean_the_same() -> None:
    written = {
        "lists": {"labels": SETS},
        "strings": {"labels": ["|".join(labels) for labels in SETS]},
        "columns": {name: [int(name in labels) for labels in SETS] for name in "abc"},
    }
    found = {way: multi(columns) for way, columns in written.items()}
    assert {splits.label_names for splits in found.values()} == {("a", "b", "c")}
    expected = {text: [float(name in labels) for name in "abc"] for text, labels in zip(TEXTS, SETS)}
    for splits in found.values():
        assert by_text(splits) == expected


def test_columns_may_be_named_and_a_teachers_order_is_taken() -> None:
    columns = {f"is_{name}": [int(name in labels) for labels in SETS] for name in "abc"} | {"other": [1] * 30}
    asked = {"label": ["is_a", "is_b", "is_c"]}
    splits = multi(columns, columns=asked, label_names=("is_c", "is_a", "is_b"))
    assert splits.label_names == ("is_c", "is_a", "is_b")
    assert by_text(splits)[TEXTS[1]] == [0.0, 1.0, 0.0]


def test_a_rare_label_keeps_its_share() -> None:
    rare = [["common", "rare"] if index < 6 else ["common"] for index in range(30)]
    splits = multi({"labels": rare})
    held = [np.array(part["label"])[:, 1].sum() for part in (splits.validation, splits.test)]
    assert all(count >= 1 for count in held)


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        ({"labels": [["a"]] * 30}, None, r"all 30 training rows have the same labels \('a'\)"),
        ({"labels": [[1.5]] * 30}, None, r"has 1.5 among the labels of row 1.*set task: regression"),
        ({"x": [2] * 30, "z": [1] * 30}, {"label": ["x", "z"]}, "column 'x' has 2 in row 1"),
        ({"note": ["n"] * 30}, None, "no column looks like the labels"),
        ({"labels": [None, *SETS[1:]]}, None, "1 of 30 rows of the train split has no label in column 'labels'"),
    ],
)
def test_label_sets_that_cannot_be_used(columns: dict[str, Any], asked: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        multi(columns, columns={"text": "text", **(asked or {})})


def test_numbers_from_one_column_several_and_strings() -> None:
    task = tasks.build("regression")
    values = [index / 3 for index in range(30)]
    one = load(Dataset.from_dict({"text": TEXTS, "score": values}), task=task)
    strings = load(Dataset.from_dict({"text": TEXTS, "score": [str(value) for value in values]}), task=task)
    assert one.label_names == ("score",)
    assert by_text(one) == by_text(strings)
    assert by_text(one)[TEXTS[3]] == [pytest.approx(1.0)]
    both = load(Dataset.from_dict({"text": TEXTS, "x": values, "y": values[::-1]}), task=task, columns={"label": ["x", "y"]})
    assert both.label_names == ("x", "y")
    assert by_text(both)[TEXTS[0]] == pytest.approx([0.0, 29 / 3])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0] * 30, "all 30 training rows have the score 1"),
        (["good"] * 30, "has 'good' in row 1 of the train split.*set task: text-classification"),
        ([-100.0, *range(29)], "the mark of a row without a label.*shift the scale"),
        ([float("inf"), *range(29)], "which is infinite"),
        ([float("nan"), *map(float, range(29))], "1 of 30 rows of the train split has no label"),
    ],
)
def test_numbers_that_cannot_be_used(values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        load(Dataset.from_dict({"text": TEXTS, "score": values}), task=tasks.build("regression"))


def test_pairs_become_two_rows_with_the_score_in_both(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"sentence1": f"first {i}", "sentence2": f"second {i}", "score": i / 10} for i in range(30)]
    file.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    splits = load(file, task=tasks.build("sentence-embeddings"))
    assert splits.label_names == ()
    for part in (splits.train, splits.test):
        texts, scores = part["text"], np.array(part["label"])[:, 0]
        assert all(a.split()[1] == b.split()[1] for a, b in zip(texts[0::2], texts[1::2]))
        assert (scores[0::2] == scores[1::2]).all()
        assert not np.isnan(scores).any()


def test_texts_alone_have_no_score() -> None:
    splits = load(Dataset.from_dict({"text": TEXTS, "label": ["x"] * 30}), task=tasks.build("sentence-embeddings"))
    assert np.isnan(np.array(splits.train["label"])).all()


def test_vectors_survive_the_disk(tmp_path: Path) -> None:
    writer = TextWriter(tmp_path)
    rows = [{"row_id": i, "labels": np.array([i, np.nan], np.float32), "input_ids": [1, 2]} for i in range(3)]
    writer.add(rows)
    writer.close("print")
    read = open_rows(tmp_path)
    assert read.labels.dtype == np.float32
    assert read.labels.shape == (3, 2)
    assert read[2]["labels"][0] == 2
    assert read.subset([2, 0]).save(tmp_path / "again").labels[:, 0].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("columns", "asked", "told"),
    [
        ({"labels": SETS}, None, "labels"),
        ({"score": [0.5, 1.0]}, None, "numbers"),
        ({"label": ["0.5", "1"]}, None, "numbers"),
        ({"label": ["a", "b"]}, None, None),
        ({"label": [0.0, 1.0]}, None, None),
        ({"x": [0, 1], "y": [1, 0]}, {"label": ["x", "y"]}, "labels"),
        ({"x": [0.5, 1.0], "y": [1.0, 0.0]}, {"label": ["x", "y"]}, "numbers"),
    ],
)
def test_the_label_column_tells_the_task(columns: dict[str, Any], asked: Any, told: str | None) -> None:
    rows = len(next(iter(columns.values())))
    assert kind_by_column(Dataset.from_dict({"text": TEXTS[:rows], **columns}), asked) == told
