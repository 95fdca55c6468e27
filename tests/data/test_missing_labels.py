"""Rows without labels: test files of competitions, rows to be used as unlabelled, labels under other names."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from potstill import tasks
from potstill.data import load, load_rows
from potstill.errors import DataError
from potstill.recipe import make_recipe
from potstill.recipe.read import parse_settings

TEXTS = [f"text {i}" for i in range(40)]


def _load(source: Any, task: str = "text-classification", **options: Any) -> Any:
    return load(source, task=tasks.build(task), **options)


def _train(labels: list[str], **more: Any) -> pd.DataFrame:
    return pd.DataFrame({"id": range(40), "text": TEXTS, "keyword": "fire", "place": "here", "label": labels, **more})


def _competition(folder: Path, test: pd.DataFrame) -> Path:
    _train(["yes", "no"] * 20).to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)
    return folder


UNLABELLED = {
    "no column": lambda frame: frame.drop(columns="label"),
    "only text": lambda frame: frame[["id", "text"]],
    "empty column": lambda frame: frame.assign(label=None),
    "minus one": lambda frame: frame.assign(label=-1),
}


@pytest.mark.parametrize("kind", UNLABELLED)
@pytest.mark.parametrize("given", [True, False])
def test_a_test_file_without_labels_is_no_test_split(
    kind: str, given: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = UNLABELLED[kind](_train(["yes", "no"] * 20).assign(text=[f"new {i}" for i in range(40)]))
    folder = _competition(tmp_path, test)
    with caplog.at_level(logging.WARNING, "potstill"):
        splits = _load(folder / "train.csv", test=folder / "test.csv") if given else _load(folder)
    assert all(text in TEXTS for text in splits.test["text"])
    assert len(splits.test) == 4
    assert f"potstill predict OUT --data {folder / 'test.csv'} -o predictions.csv" in splits.warnings[0]
    assert splits.warnings[0] in caplog.text


def test_several_labels_without_columns_or_with_minus_one(tmp_path: Path) -> None:
    flags = pd.DataFrame({"text": TEXTS, "toxic": [0, 1] * 20, "rude": [1, 0, 0, 1] * 10})
    flags.to_csv(tmp_path / "train.csv", index=False)
    for test in (flags[["text"]], flags.assign(toxic=-1, rude=-1)):
        test.to_csv(tmp_path / "test.csv", index=False)
        assert len(_load(tmp_path, "multi-label").warnings) == 1


def test_labels_under_another_name_are_still_found(tmp_path: Path) -> None:
    test = _train(["yes", "no"] * 20)[["text", "label"]].rename(columns={"label": "sentiment"})
    assert len(_load(_competition(tmp_path, test)).test) == 40


def test_evaluation_needs_labels(tmp_path: Path) -> None:
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match=r"new.csv has no labels.*potstill predict OUT --data .*new.csv"):
        load_rows(tmp_path / "new.csv", task=tasks.build("text-classification"), label_names=["no", "yes"])


def test_training_rows_without_label_can_be_unlabelled_rows(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": TEXTS, "label": [None, "a", "b", ""] * 10})
    with pytest.raises(DataError, match=r"20 of 40 rows .*--set data.unlabeled_rows=use"):
        _load(rows)
    splits = _load(rows, use_unlabelled=True)
    assert set(splits.unlabelled["text"]) == {text for i, text in enumerate(TEXTS) if i % 4 in (0, 3)}
    more = _load(rows, use_unlabelled=True, unlabelled=Dataset.from_dict({"text": ["one more"]}))
    assert len(more.unlabelled) == 21
    assert "one more" in more.unlabelled["text"]
    with pytest.raises(DataError, match="40 of 40"):
        _load(Dataset.from_dict({"text": TEXTS, "label": [""] * 40}), use_unlabelled=True)


@pytest.mark.parametrize(
    ("labels", "names", "setting"),
    [
        (["LABEL_0", "LABEL_1"], ["negative", "positive"], '{"LABEL_0": "negative", "LABEL_1": "positive"}'),
        (["good", "bad"], ["negative", "positive"], "data.label_map="),
        (["good", "bad"], ["LABEL_0", "LABEL_1"], '"good": "LABEL_1"'),
        (["1", "2"], ["negative", "positive"], '{"1": "negative", "2": "positive"}'),
    ],
)
def test_the_message_pastes_a_label_map_that_works(labels: list[str], names: list[str], setting: str) -> None:
    rows = Dataset.from_dict({"text": TEXTS, "label": labels * 20})
    with pytest.raises(DataError) as caught:
        _load(rows, label_names=names)
    assert setting in str(caught.value)
    pasted = str(caught.value).split("--set ")[1].split("'")
    recipe = make_recipe({"teacher": "t", "data": "d"}, parse_settings([pasted[0] + pasted[1]]))
    assert _load(rows, label_names=names, label_map=recipe.data.label_map).label_names == tuple(names)


def test_label_map_of_each_kind() -> None:
    feature = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    one = Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 20}, features=feature)
    names, words = ["positive", "negative"], {"bad": "negative", "good": "positive"}
    splits = _load(one, label_names=names, label_map=words)
    assert all(label == 1 - TEXTS.index(text) % 2 for text, label in zip(splits.train["text"], splits.train["label"]))
    sets = Dataset.from_dict({"text": TEXTS, "labels": [["bad"], ["bad", "good"]] * 20})
    assert {tuple(row) for row in _load(sets, "multi-label", label_names=names, label_map=words).train["label"]} == {
        (0, 1),
        (1, 1),
    }
    flags = Dataset.from_dict({"text": TEXTS, "bad": [1] * 40, "good": [0, 1] * 20})
    assert {tuple(row) for row in _load(flags, "multi-label", label_names=names, label_map=words).train["label"]} == {
        (0, 1),
        (1, 1),
    }
    tags = Dataset.from_dict({"tokens": [["a", "b"]] * 40, "tags": [["X", "Y"], ["Y", "X"]] * 20})
    splits = _load(tags, "token-classification", label_names=["O", "B-P"], label_map={"X": "O", "Y": "B-P"})
    assert {tuple(row) for row in splits.train["label"]} == {(0, 1), (1, 0)}


def test_several_labels_can_become_one_and_yaml_values_are_names() -> None:
    rows = Dataset.from_dict({"text": TEXTS, "label": ["yes", "no", "maybe", "no"] * 10})
    recipe = make_recipe({"teacher": "t", "data": {"source": "d", "label_map": {True: "p", False: "n", "maybe": "n"}}})
    assert _load(rows, label_map=recipe.data.label_map).label_names == ("n", "p")
    numbers = make_recipe({"teacher": "t", "data": {"source": "d", "label_map": {0: "n", 1: "p"}}})
    ids = Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 20})
    assert _load(ids, label_names=["p", "n"], label_map=numbers.data.label_map).label_names == ("p", "n")


def test_label_maps_without_use_are_refused() -> None:
    rows = Dataset.from_dict({"text": TEXTS, "label": ["a", "b"] * 20, "score": [0.5, 1.5] * 20})
    with pytest.raises(DataError, match=r"the data have none of these labels.*'a', 'b'"):
        _load(rows, label_map={"x": "y"})
    with pytest.raises(DataError, match="the task answers with numbers"):
        _load(rows, "regression", columns={"label": "score"}, label_map={"x": "y"})
