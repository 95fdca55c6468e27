"""Columns are found by name and type, and refused where two would do."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from potstill import tasks
from potstill.errors import DataError


def _features(**columns: object) -> Features:
    kinds = {str: Value("string"), int: Value("int64"), bool: Value("bool")}
    return Features({name: kinds[kind] if isinstance(kind, type) else kind for name, kind in columns.items()})


TEXT, IMAGE = "text-classification", "image-classification"


def find(task: str, features: Features, asked: dict[str, str] | None, **options: bool) -> dict[str, str]:
    """The columns of a data set without rows."""
    return tasks.build(task).find_columns(Dataset.from_dict({name: [] for name in features}, features=features), asked, **options)


CLASS = ClassLabel(names=["no", "yes"])


@pytest.mark.parametrize(
    ("features", "roles"),
    [
        (_features(text=str, label=str), {"text": "text", "label": "label"}),
        (_features(review=str, sentiment=str, id=str), {"text": "review", "label": "sentiment"}),
        (_features(文本=str, 标签=int), {"text": "文本", "label": "标签"}),
        (_features(Sentence=str, Label=int, idx=int), {"text": "Sentence", "label": "Label"}),
        (_features(premise=str, hypothesis=str, label=CLASS), {"text": "premise", "text_pair": "hypothesis", "label": "label"}),
        (
            _features(sentence1=str, sentence2=str, label=int, idx=int),
            {"text": "sentence1", "text_pair": "sentence2", "label": "label"},
        ),
        (_features(question=str, passage=str, answer=bool), {"text": "question", "text_pair": "passage", "label": "answer"}),
        (_features(words=str, kind=CLASS), {"text": "words", "label": "kind"}),
        (_features(words=str, stars=int), {"text": "words", "label": "stars"}),
        (_features(text=str, genre=str), {"text": "text", "label": "genre"}),
    ],
)
def test_text_columns_are_found(features: Features, roles: dict[str, str]) -> None:
    assert find(TEXT, features, None) == roles


@pytest.mark.parametrize(
    ("features", "choices"),
    [
        (_features(text=str, review=str, label=str), ["'text'", "'review'"]),
        (_features(text=str, label=str, category=str), ["'label'", "'category'"]),
        (_features(a=str, b=str, label=int), ["'a'", "'b'"]),
        (_features(text=str, stars=int, votes=int), ["'stars'", "'votes'"]),
        (_features(text=str), ["'text'"]),
        (_features(number=int, label=int), ["'number'", "'label'"]),
    ],
)
def test_unclear_columns_are_refused_with_the_choices(features: Features, choices: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        find(TEXT, features, None)
    assert all(choice in str(caught.value) for choice in choices)
    assert "data.columns: {" in str(caught.value)


def test_what_is_asked_for_wins() -> None:
    features = _features(text=str, review=str, label=str, category=str)
    asked = {"text": "review", "label": "category"}
    assert find(TEXT, features, asked) == asked
    assert find(TEXT, features, {"text": "text", "text_pair": "review", "label": "label"})["text_pair"] == "review"


def test_no_label_is_wanted_of_unlabelled_rows() -> None:
    assert find(TEXT, _features(text=str), None, labelled=False) == {"text": "text"}


def test_image_columns_are_found() -> None:
    image = {"bytes": Value("binary"), "path": Value("string")}
    assert find(IMAGE, _features(img=Image(), label=CLASS), None) == {"image": "img", "label": "label"}
    assert find(IMAGE, _features(picture=image, label=int), None) == {"image": "picture", "label": "label"}
    assert find(IMAGE, _features(file_name=str, label=str), None) == {"image": "file_name", "label": "label"}
    assert find(IMAGE, Dataset.from_dict({"data": [b"x"], "class": [1]}).features, None) == {
        "image": "data",
        "label": "class",
    }
    with pytest.raises(DataError, match="'fine_label', 'coarse_label'"):
        find(IMAGE, _features(img=Image(), fine_label=CLASS, coarse_label=CLASS), None)
