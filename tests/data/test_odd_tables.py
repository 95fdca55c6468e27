"""CSV files and tables in memory as other programs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from potstill import tasks
from potstill.data import load
from potstill.data.tables import read_table
from potstill.errors import DataError

TASK = tasks.build("text-classification")
ROWS = [(f"text {i}", "yes" if i % 2 else "no") for i in range(30)]


def _csv(folder: Path, content: str, name: str = "a.csv") -> Path:
    (folder / name).write_bytes(content.encode())
    return folder / name


def _body(mark: str = ",", end: str = "\n") -> str:
    return "".join(f"{text}{mark}{label}{end}" for text, label in ROWS)


@pytest.mark.parametrize(
    "content",
    [
        "text,label\r" + _body(end="\r"),
        '"text","label"\r' + "".join(f'"{text}","{label}"\r' for text, label in ROWS),
        "text,label\r\n" + _body(end="\r\n"),
        "sep=;\ntext;label\n" + _body(";"),
        '"sep=;"\r\ntext;label\r\n' + _body(";", "\r\n"),
        "\n  \ntext,label\n" + _body(),
        "\ufefftext,label\n" + _body(),
        "\ufeffsep=;\ntext;label\n" + _body(";"),
        "text;label\n" + _body(";"),
        "text|label\n" + _body("|"),
    ],
)
def test_forms_of_csv(content: str, tmp_path: Path) -> None:
    table = read_table(_csv(tmp_path, content))
    assert table.column_names == ["text", "label"]
    assert list(zip(*table.to_pydict().values())) == ROWS


def test_delimiter_of_a_header_with_commas(tmp_path: Path) -> None:
    found = read_table(_csv(tmp_path, '"a, b, c, d";label\n' + _body(";")))
    assert found.column_names == ["a, b, c, d", "label"]
    found = read_table(_csv(tmp_path, "text;label\n" + "".join(f"a, b, {text};{label}\n" for text, label in ROWS)))
    assert found.column_names == ["text", "label"]


def test_long_fields(tmp_path: Path) -> None:
    long = "x" * 300_000
    assert read_table(_csv(tmp_path, f"text,label\n{long},a\ny,b\n"))["text"][0].as_py() == long


@pytest.mark.parametrize(
    "content",
    [
        "i love this film,positive\n"
        + "".join(f"film number {i} was seen,{'positive' if i % 2 else 'negative'}\n" for i in range(9)),
        "some words,1\n" + "".join(f"words {i},{i % 2}\n" for i in range(9)),
    ],
)
def test_a_file_without_a_header_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looks like a row and not like column names.*for example 'text,label'"):
        read_table(_csv(tmp_path, content))


def test_headers_of_numbers_and_of_words_that_are_values(tmp_path: Path) -> None:
    assert read_table(_csv(tmp_path, "0,1\n" + _body())).num_rows == 30
    assert (
        read_table(_csv(tmp_path, "message,spam\n" + "".join(f"words {i},{('spam', 'ham')[i % 2]}\n" for i in range(9)))).num_rows
        == 9
    )


@pytest.mark.parametrize("name", ["", "Row ID", "textID", "id", "Unnamed: 0", "tweet_id", "index"])
def test_ids_are_neither_text_nor_label(name: str, tmp_path: Path) -> None:
    rows = "".join(f"{i},{text},{i % 3}\n" for i, (text, _) in enumerate(ROWS))
    path = _csv(tmp_path, f"{name},comment,rating_group\n{rows}")
    assert TASK.find_columns(load_dataset(path), None) == {"text": "comment", "label": "rating_group"}


def load_dataset(path: Path) -> Any:
    from potstill.data.sources import read_file

    return read_file(path)


def test_texts_of_digits(tmp_path: Path) -> None:
    path = _csv(tmp_path, "text,label\n" + "".join(f"{i * 7},{('a', 'b')[i % 2]}\n" for i in range(30)))
    assert all(text.isdigit() for text in load(path, task=TASK).train["text"])


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"text": ["a", "b"], "label": ["x", 1]}), ["column 'label' of the DataFrame mixes types", "line 2"]),
        (pd.DataFrame([["a", "b", "c"]], columns=["text", "text", "label"]), ["more than one column 'text'", "rename"]),
    ],
)
def test_data_frames_that_cannot_be_used(frame: pd.DataFrame, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        load(frame, task=TASK)
    assert all(word in str(caught.value) for word in words)


def test_rows_in_memory() -> None:
    rows = [{"text": text, "label": label} for text, label in ROWS]
    assert load(rows, task=TASK).label_names == load(pd.DataFrame(rows), task=TASK).label_names == ("no", "yes")


COLUMNS = {
    "Row ID": [f"R-{i}" for i in range(30)],
    "Customer Comment": [f"comment number {i} with many words" for i in range(30)],
    "Sentiment (final)": ["Positive", "Negative"] * 15,
    "Source": ["web", "mail", "phone"] * 10,
}


def test_columns_by_the_teachers_labels_and_the_longest_texts() -> None:
    splits = load(pd.DataFrame(COLUMNS), task=TASK, label_names=["negative", "positive"])
    assert "text from 'Customer Comment'" in " ".join(splits.notes)
    assert "label from 'Sentiment (final)'" in " ".join(splits.notes)


def test_unclear_columns_are_asked_for_with_settings_to_paste() -> None:
    with pytest.raises(DataError) as caught:
        load(pd.DataFrame(COLUMNS), task=TASK)
    assert "--set data.columns.text='Customer Comment'" in str(caught.value)
    assert "--set data.columns.label=" in str(caught.value)
    assert "Row ID'" not in str(caught.value).partition("the likeliest")[2]
