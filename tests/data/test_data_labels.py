"""Labels of every kind, and their order."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

from potstill import tasks
from potstill.answers.class_labels import LabelMap, names_of, raw_labels
from potstill.data import load
from potstill.errors import DataError

TASK = tasks.build("text-classification")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "c"], ("a", "b", "c")),
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9", "2"], ("2", "9", "10")),
        ([True, False], ("false", "true")),
        ([2.0, 1.0], ("1", "2")),
        (["好", "坏"], ("坏", "好")),
    ],
)
def test_own_order(labels: list, names: tuple[str, ...]) -> None:
    raw = raw_labels(Dataset.from_dict({"label": labels}), "label", "train")
    assert names_of(raw) == names
    assert [names[i] for i in LabelMap(names, raw).positions(raw, "train")] == [
        str(int(label)) if isinstance(label, float) else str(label).lower() for label in labels
    ]


def test_labels_in_several_chunks() -> None:
    parts = [Dataset.from_dict({"label": labels}) for labels in (["a", "b"], ["c", None], ["b", "a"])]
    assert raw_labels(concatenate_datasets(parts), "label", "train") == ["a", "b", "c", None, "b", "a"]
    assert raw_labels(concatenate_datasets(parts).select([4, 2]), "label", "train") == ["b", "c"]


def test_class_label_keeps_its_order_and_hides_negative_ones() -> None:
    feature = ClassLabel(names=["zebra", "ant"])
    rows = Dataset.from_dict({"label": [1, 0, -1]}, features=Features({"label": feature}))
    raw = raw_labels(rows, "label", "train")
    assert raw == ["ant", "zebra", None]
    assert names_of(["ant", "zebra"], feature) == ("zebra", "ant")


def test_labels_follow_the_teachers_names() -> None:
    mapping = LabelMap(("POSITIVE", "NEGATIVE"), ["negative", "positive"], given=True)
    np.testing.assert_array_equal(mapping.positions(["negative", "positive"], "train"), [1, 0])
    assert "capital letters" in mapping.notes[0]


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1", "LABEL_2"), ("low", "mid", "high")])
def test_integers_are_positions_in_the_teachers_labels(names: tuple[str, ...]) -> None:
    mapping = LabelMap(names, [2, 0, 1], given=True)
    np.testing.assert_array_equal(mapping.positions([2, 0, 1, 2], "train"), [2, 0, 1, 2])
    assert bool(mapping.notes) == (names[0] == "low")


def test_integers_that_are_the_teachers_names_are_names() -> None:
    np.testing.assert_array_equal(LabelMap(("3", "1", "2"), [1, 2, 3], given=True).positions([1, 2, 3], "train"), [1, 2, 0])


@pytest.mark.parametrize(
    ("names", "found", "words"),
    [
        (("a", "b"), ["a", "c"], ["only in the data: 'c'", "only in the teacher: 'b'"]),
        (("a", "b", "c"), ["a", "b"], ["only in the teacher: 'c'"]),
        (("LABEL_0", "LABEL_1"), ["no", "yes"], ["have no names", "the order is unknown"]),
        (("a", "b"), [1, 2], ["labels 1, 2", "0 to 1"]),
    ],
)
def test_label_sets_that_differ_are_refused(names: tuple[str, ...], found: list, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        LabelMap(names, found, given=True)
    assert all(word in str(caught.value) for word in words)


def test_a_split_keeps_its_meaning_whatever_the_order_of_names(reviews: list[dict]) -> None:
    own, turned = (load(Dataset.from_list(reviews), task=TASK, label_names=names) for names in (None, ("positive", "negative")))
    assert turned.label_names == ("positive", "negative")
    np.testing.assert_array_equal(np.array(own.train["label"]), 1 - np.array(turned.train["label"]))
    assert own.fingerprint != turned.fingerprint


def test_class_labels_name_a_teacher_without_names() -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["zebra", "ant"])})
    rows = Dataset.from_dict({"text": [f"text {i}" for i in range(20)], "label": [i % 2 for i in range(20)]}, features=features)
    splits = load(rows, task=TASK, label_names=("LABEL_0", "LABEL_1"))
    assert splits.label_names == ("zebra", "ant")
    assert any("have no names" in note for note in splits.notes)
    with pytest.raises(DataError, match="different labels"):
        load(rows, task=TASK, label_names=("LABEL_0", "LABEL_1", "LABEL_2"))


def test_booleans_and_numbers_in_a_csv(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(20)), "utf-8")
    splits = load(path, task=TASK)
    assert splits.label_names == ("0", "1")
    assert splits.train.features["label"] == Value("int64")
