"""One set of rows, brought in every way that users have it, gives the same splits."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill import modalities, tasks
from potstill.data import load, load_rows
from potstill.data.sources import read_source, split_of
from potstill.errors import DataError

TASK = tasks.build("text-classification")


def _write(rows: list[dict], path: Path) -> Path:
    names = list(rows[0])
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, names, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps({"version": 1, "data": rows}), "utf-8")
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", "utf-8")
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.parquet", "rows.jsonl.gz"])
def test_every_file_format_gives_the_same_rows(tmp_path: Path, reviews: list[dict], name: str) -> None:
    reviews[3]["text"] = 'a "quoted", comma\'d text'
    expected = load(datasets.Dataset.from_list(reviews), task=TASK)
    splits = load(_write(reviews, tmp_path / name), task=TASK)
    assert splits.train["text"][:] == expected.train["text"][:]
    assert splits.fingerprint == expected.fingerprint
    assert splits.label_names == ("negative", "positive")


def test_memory_and_saved_folders_give_the_same_rows(tmp_path: Path, reviews: list[dict]) -> None:
    dataset = datasets.Dataset.from_list(reviews)
    dataset.save_to_disk(tmp_path / "saved")
    expected = load(dataset, task=TASK).fingerprint
    assert load(tmp_path / "saved", task=TASK).fingerprint == expected
    assert load(pandas.DataFrame(reviews), task=TASK).fingerprint == expected
    assert load({"train": dataset}, task=TASK).fingerprint == expected


def test_folder_of_split_files_and_dataset_dict_agree(tmp_path: Path, reviews: list[dict]) -> None:
    parts = {"train": reviews[:30], "dev": reviews[30:34], "test": reviews[34:], "oos_test": reviews[:2]}
    for name, rows in parts.items():
        _write(rows, tmp_path / f"{name}.jsonl")
    splits = load(tmp_path, task=TASK)
    held = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()})
    held.save_to_disk(tmp_path / "saved")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (30, 4, 6)
    assert load(held, task=TASK).fingerprint == splits.fingerprint == load(tmp_path / "saved", task=TASK).fingerprint
    assert any("oos_test" in note for note in splits.notes)


def test_numbered_parts_are_joined(tmp_path: Path, reviews: list[dict]) -> None:
    _write(reviews[:20], tmp_path / "train-00000-of-00002.parquet")
    _write(reviews[20:], tmp_path / "train-00001-of-00002.parquet")
    assert len(read_source(tmp_path, modality=modalities.build("text")).splits["train"]) == 40


def test_validation_test_and_unlabelled_may_be_sources_of_their_own(tmp_path: Path, reviews: list[dict]) -> None:
    (tmp_path / "more.txt").write_text("the movie\n\na film\n", "utf-8")
    splits = load(
        _write(reviews[:30], tmp_path / "a.jsonl"),
        task=TASK,
        validation=_write(reviews[30:35], tmp_path / "b.csv"),
        test=_write(reviews[35:], tmp_path / "c.parquet"),
        unlabelled=tmp_path / "more.txt",
    )
    assert splits.unlabelled is not None
    assert splits.unlabelled["text"][:] == ["the movie", "a film"]
    assert set(splits.unlabelled["label"]) == {-100}
    everything = [i for part in (splits.train, splits.validation, splits.test, splits.unlabelled) for i in part["row_id"]]
    assert sorted(everything) == list(range(42))


def test_hidden_hub_labels_make_a_test_split_unused(reviews: list[dict]) -> None:
    hidden = [row | {"label": -1} for row in reviews[30:]]
    train = [row | {"label": i % 2} for i, row in enumerate(reviews[:30])]
    splits = load({"train": datasets.Dataset.from_list(train), "test": datasets.Dataset.from_list(hidden)}, task=TASK)
    assert len(splits.test) == 3
    assert any("test split has no labels" in note for note in splits.notes)


def test_a_hub_name_goes_to_load_dataset(monkeypatch: pytest.MonkeyPatch, reviews: list[dict]) -> None:
    asked = []

    def answer(*args: object) -> datasets.DatasetDict:
        asked.append(args)
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(reviews)})

    monkeypatch.setattr(datasets, "load_dataset", answer)
    load("owner/reviews:small", task=TASK)
    load("owner/reviews", task=TASK)
    assert asked == [("owner/reviews", "small"), ("owner/reviews", None)]


def test_load_rows_keeps_the_models_order_and_may_lack_classes(tmp_path: Path, reviews: list[dict]) -> None:
    path = _write([row for row in reviews if row["label"] == "positive"], tmp_path / "new.jsonl")
    rows = load_rows(path, task=TASK, label_names=("positive", "negative"))
    assert set(rows["label"]) == {0}
    with pytest.raises(DataError, match="only in the data: 'positive'"):
        load_rows(path, task=TASK, label_names=("bad", "negative"))


def test_a_tsv_with_stray_quotes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"oh" he said\tx\n5" pipe\ty\n', "utf-8")
    assert read_source(path, modality=modalities.build("text")).splits["train"]["text"][:] == ['"oh" he said', '5" pipe']


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Validation_matched", "validation"),
        ("dev.tsv", "validation"),
        ("test-00000", "test"),
        ("tester", None),
        ("detrain", None),
    ],
)
def test_split_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_image_sources_agree(tmp_path: Path, image_folder: Path) -> None:
    task = tasks.build("image-classification")
    by_folder = load(image_folder, task=task)
    rows = [
        {"file_name": f"{path.parent.name}/{path.name}", "label": path.parent.name}
        for path in sorted(image_folder.rglob("*.png"))
    ]
    (image_folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    (image_folder / "list.csv").write_text(
        "image,label\n" + "\n".join(f"{row['file_name']},{row['label']}" for row in rows), "utf-8"
    )
    as_bytes = [{"image": (image_folder / row["file_name"]).read_bytes(), "label": row["label"]} for row in rows]
    as_struct = [{"image": {"bytes": row["image"], "path": None}, "label": row["label"]} for row in as_bytes]
    sources = [image_folder, image_folder / "list.csv"]
    for number, held in enumerate((as_bytes, as_struct)):
        sources.append(tmp_path / f"{number}.parquet")
        pq.write_table(pa.Table.from_pylist(held), sources[-1])
    for source in sources:
        splits = load(source, task=task)
        assert splits.label_names == by_folder.label_names == ("cat", "dog")
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (20, 2, 2)


def test_folders_of_images_by_split(image_folder: Path) -> None:
    root = image_folder.parent / "root"
    root.mkdir()
    image_folder.rename(root / "train")
    assert load(root, task=tasks.build("image-classification")).label_names == ("cat", "dog")
