"""Splits carved out: stratified, repeatable, disjoint, and never out of a given test split."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill import tasks
from potstill.data import load
from potstill.data.fingerprint import row_hashes
from potstill.data.holdout import stratified, thin

TASK = tasks.build("text-classification")


def _content(texts: list[str]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string())})


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), share=st.floats(0.05, 0.5), seed=st.integers(0, 99))
def test_stratified_law(sizes: list[int], share: float, seed: int) -> None:
    label = np.repeat(np.arange(len(sizes)), sizes)
    count = max(1, round(len(label) * share))
    rows = stratified(np.arange(len(label)), label, count, seed)
    assert len(set(rows.tolist())) == len(rows) <= count
    taken = Counter(label[rows].tolist())
    for name, size in enumerate(sizes):
        assert taken[name] <= size - 1
        assert abs(taken[name] - count * size / len(label)) <= 1 or taken[name] == size - 1 or min(sizes) == 1
    np.testing.assert_array_equal(rows, stratified(np.arange(len(label)), label, count, seed))


def test_repeated_rows_stay_in_training() -> None:
    texts = [f"text {i}" for i in range(80)] + ["twice"] * 20
    rows = stratified(row_hashes(_content(texts)), np.zeros(100, int), 10, 0)
    assert len(rows) == 10
    assert rows.max() < 80


def test_carved_splits_are_disjoint_complete_and_said(reviews: list[dict]) -> None:
    splits = load(Dataset.from_list(reviews), task=TASK, seed=3)
    parts = [set(part["text"]) for part in (splits.train, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert set.union(*parts) == {row["text"] for row in reviews}
    assert Counter(splits.test["label"]) == {0: 2, 1: 2}
    assert sum("held out" in note for note in splits.notes) == 2
    assert load(Dataset.from_list(reviews), task=TASK, seed=3).fingerprint == splits.fingerprint
    assert load(Dataset.from_list(reviews), task=TASK, seed=4).fingerprint != splits.fingerprint


def test_a_given_test_split_is_left_alone(reviews: list[dict]) -> None:
    splits = load({"train": Dataset.from_list(reviews[:30]), "test": Dataset.from_list(reviews[30:])}, task=TASK)
    assert splits.test["text"][:] == [row["text"] for row in reviews[30:]]
    assert (len(splits.train), len(splits.validation)) == (27, 3)


def test_rows_of_test_that_occur_in_training_are_counted(reviews: list[dict]) -> None:
    splits = load({"train": Dataset.from_list(reviews), "test": Dataset.from_list(reviews[:7])}, task=TASK)
    assert any("7 of 7 rows of the test split also occur in training" in note for note in splits.notes)


def test_max_rows_thins_each_split_by_class(reviews: list[dict]) -> None:
    splits = load(Dataset.from_list(reviews), task=TASK, max_rows=10)
    assert Counter(splits.train["label"]) == {0: 5, 1: 5}
    assert any("thinned" in note for note in splits.notes)


@pytest.mark.parametrize("count", [3, 7, 50])
def test_thin_keeps_every_class(count: int) -> None:
    label = np.repeat([0, 1, 2], [1, 5, 94])
    kept, positions = thin(_content([str(i) for i in range(100)]), label, count, 0, "train", [], strata=label)
    assert kept.num_rows == len(positions) <= count
    assert set(positions) == {0, 1, 2}


def test_empty_texts_are_kept_and_counted(reviews: list[dict]) -> None:
    reviews[0]["text"], reviews[1]["text"] = "", None
    splits = load(Dataset.from_list(reviews), task=TASK)
    assert any(note.startswith("2 of 40 texts") for note in splits.notes)


def test_pairs_are_kept(reviews: list[dict]) -> None:
    rows = [{"premise": row["text"], "hypothesis": f"so {i}", "label": row["label"]} for i, row in enumerate(reviews)]
    splits = load(Dataset.from_list(rows), task=TASK)
    assert splits.train.column_names == ["text", "text_pair", "label", "row_id"]
    assert TASK.text_of(splits.train[0]) == f"{splits.train[0]['text']} | {splits.train[0]['text_pair']}"
