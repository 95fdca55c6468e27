"""Predictions of every kind of answer: label sets, numbers, tags, spans, vectors, pairs, several tasks, images."""

from __future__ import annotations

import csv
import json
import random
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import potstill
from potstill import DistillationPipeline
from potstill.answers.tags import EntityCounts, entities_of
from potstill.errors import DataError, RecipeError
from potstill.flows.comparison import compare
from potstill.flows.further_export import add_export
from potstill.flows.prediction import Asked, Prediction
from potstill.flows.prediction_files import written_whole
from potstill.recipe import make_recipe
from potstill.report.metrics import Metrics

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 4, "learning_rate": 3e-3},
    "data": {"augment": "none"},
    "student": {"ratio": 0.5},
    "distill": {"epochs": 2, "learning_rate": 3e-3},
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 1},
}


def run(teacher: Path, data: Path, output: Path, /, **changes: Any) -> Metrics:
    return DistillationPipeline(teacher, data, {**CONFIG, **changes}, output).run()


def predicted(folder: Path, data: Path, file: Path, **options: Any) -> list[dict[str, Any]]:
    with written_whole(file) as writer:
        Prediction(folder, Asked(data, **{"runtime": "torch", **options})).write(writer)
    is_table = file.suffix == ".parquet"
    found = pq.read_table(file).to_pylist() if is_table else [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    if not options and data.suffix == ".jsonl" and '"file"' not in data.read_text("utf-8"):
        check_in_memory(folder, data, found)
    return found


def check_in_memory(folder: Path, data: Path, found: list[dict[str, Any]]) -> None:
    """The loaded student answers the same rows the same way."""
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    answers = potstill.load(folder).predict(rows)
    assert len(answers) == len(found)
    for answer, row in zip(answers, found, strict=True):
        if "prediction" not in answer:  # of several tasks
            assert all(part["prediction"] == row[f"{task}_prediction"] for task, part in answer.items())
        elif "prediction" in row and not isinstance(row["prediction"], float):
            assert (
                answer["prediction"] == pytest.approx(row["prediction"], abs=1e-5)
                if (isinstance(row["prediction"], list) and row["prediction"] and isinstance(row["prediction"][0], float))
                else answer["prediction"] == row["prediction"]
            )
        elif "prediction" in row:
            assert answer["prediction"] == pytest.approx(row["prediction"], abs=1e-5)


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return file


def texts(reviews: Path, count: int) -> list[tuple[str, str]]:
    with reviews.open(encoding="utf-8") as stream:
        return [(text, label) for text, label in list(csv.reader(stream))[1 : count + 1]]


def split_in(folder: Path, rows: list[dict[str, Any]], test: int) -> Path:
    """The rows as a folder with train and test."""
    folder.mkdir()
    written(folder / "train.jsonl", rows[test:])
    written(folder / "test.jsonl", rows[:test])
    return folder


def test_several_labels_and_numbers(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": text, "labels": [label, *(["film"] if "film" in text.split() else [])], "score": 5.0 + (label == "good")}
        for text, label in texts(reviews, 120)
    ]
    data = split_in(tmp_path / "data", rows, 30)
    metrics = run(small_bert, data, tmp_path / "sets", data={"augment": "none", "columns": {"label": "labels"}})
    found = predicted(tmp_path / "sets", data / "test.jsonl", tmp_path / "sets.jsonl")
    same = np.mean([set(row["prediction"]) == set(row["labels"]) for row in found])
    assert same == pytest.approx(metrics.models["student"].quality["subset_accuracy"])
    assert all((row["probability_film"] > 0.5) == ("film" in row["prediction"]) for row in found)

    run(small_bert, data, tmp_path / "one", data={"augment": "none", "columns": {"label": "score"}}, task="regression")
    numbers = predicted(tmp_path / "one", data / "test.jsonl", tmp_path / "one.jsonl")
    assert all(isinstance(row["prediction"], float) for row in numbers)
    with pytest.raises(RecipeError, match=r"--top is given, and the task is regression.*leave --top out"):
        predicted(tmp_path / "one", data / "test.jsonl", tmp_path / "two.jsonl", top=1)
    assert not (tmp_path / "two.jsonl").exists()


def test_tags_stand_with_their_words(small_bert: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    rows = []
    for _ in range(120):
        words = [chance.choice(["bright", "film", "the", "dull", "book"]) for _ in range(chance.randint(2, 6))]
        tags = ["B-PER" if word == "bright" else "B-LOC" if word == "dull" else "O" for word in words]
        rows.append({"tokens": words, "tags": tags})
    rows[0] = {"tokens": ["film"] * 90, "tags": ["O"] * 90}  # longer than the window of 64 tokens
    data = split_in(tmp_path / "data", rows, 30)
    metrics = run(small_bert, data, tmp_path / "out", task="token-classification")
    found = predicted(tmp_path / "out", data / "test.jsonl", tmp_path / "p.jsonl")
    counts = EntityCounts()
    for row in found[1:]:
        assert len(row["prediction"]) == len(row["probability"]) == len(row["tokens"])
    assert found[0]["prediction"][-1] is None
    for row in found:
        said = [tag or "O" for tag in row["prediction"]]
        counts.add(entities_of(row["tags"]), entities_of(said))
    assert counts.scores()["f1"] == pytest.approx(metrics.models["student"].quality["f1"])
    broken = written(tmp_path / "broken.jsonl", [{"tokens": ["film"]}, {"tokens": ["film", "book"]}, {"tokens": None}])
    with pytest.raises(DataError, match=r"broken\.jsonl: column 'tokens' holds nothing in row 3"):
        predicted(tmp_path / "out", broken, tmp_path / "q.jsonl")


def test_spans_are_places_in_the_context(small_bert: Path, tmp_path: Path) -> None:
    chance, rows = random.Random(0), []
    for number in range(120):
        count = 90 if number % 10 == 0 else chance.randint(4, 12)  # some are longer than the window
        words = [chance.choice(["the", "film", "book", "was", "very"]) for _ in range(count)]
        place = chance.randrange(count)
        words[place] = chance.choice(["bright", "lovely"])
        start = len(" ".join(words[:place])) + (place > 0)
        rows.append(
            {
                "id": number,
                "question": "which is it",
                "context": " ".join(words),
                "answers": {"text": [words[place]], "answer_start": [start]},
            }
        )
    data = split_in(tmp_path / "data", rows, 30)
    metrics = run(small_bert, data, tmp_path / "out", task="question-answering")
    bare = written(tmp_path / "bare.jsonl", [{k: v for k, v in row.items() if k != "answers"} for row in rows[:30]])
    found = predicted(tmp_path / "out", bare, tmp_path / "p.jsonl")
    right = []
    for row, given in zip(found, rows, strict=False):
        if row["prediction"]:
            assert row["context"][row["start"] : row["end"]] == row["prediction"]
        else:
            assert row["start"] is None
        assert 0 <= row["probability"] <= 1
        right.append(row["prediction"] == given["answers"]["text"][0])
    assert np.mean(right) == pytest.approx(metrics.models["student"].quality["exact_match"])


def test_vectors_and_pairs(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    single = [{"id": number, "text": text} for number, (text, _) in enumerate(texts(reviews, 100))]
    data = written(tmp_path / "texts.jsonl", single)
    run(small_bert, data, tmp_path / "out", task="sentence-embeddings")
    found = predicted(tmp_path / "out", data, tmp_path / "p.parquet", keep="id")
    assert [row["id"] for row in found] == list(range(100))
    assert {len(row["prediction"]) for row in found} == {48}
    pairs = [{"sentence1": one["text"], "sentence2": two["text"]} for one, two in pairwise(single)]
    both = predicted(tmp_path / "out", written(tmp_path / "pairs.jsonl", pairs), tmp_path / "q.jsonl")
    assert both[3]["prediction"] == pytest.approx(found[3]["prediction"], abs=1e-5)
    assert both[3]["prediction_pair"] == pytest.approx(found[4]["prediction"], abs=1e-5)
    assert -1 <= both[3]["similarity"] <= 1
    added = add_export(tmp_path / "out", "dynamic")
    assert added.metrics.models[f"student-{added.measured['name']}"].quality["teacher_cosine"] > 0.5
    served = predicted(tmp_path / "out", data, tmp_path / "r.parquet", keep="id", runtime="int8")
    assert np.dot(served[0]["prediction"], found[0]["prediction"]) > 0.9


def test_pairs_of_texts_to_classify(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    rows = [
        {"premise": one, "hypothesis": two, "label": "same" if a == b else "other"}
        for (one, a), (two, b) in zip(texts(reviews, 120), texts(reviews, 121)[1:])
    ]
    data = split_in(tmp_path / "data", rows, 30)
    metrics = run(small_bert, data, tmp_path / "out")
    found = predicted(tmp_path / "out", data / "test.jsonl", tmp_path / "p.jsonl")
    right = np.mean([row["prediction"] == row["label"] for row in found])
    assert right == pytest.approx(metrics.models["student"].quality["accuracy"])
    with pytest.raises(DataError, match=r"trained on text and text_pair.*--column text=NAME --column text_pair=NAME"):
        predicted(tmp_path / "out", written(tmp_path / "one.jsonl", [{"premise": "a film"}]), tmp_path / "q.jsonl")


def test_several_tasks_are_answered_side_by_side_or_one(small_bert: Path, reviews: Path, topics: Path, tmp_path: Path) -> None:
    columns = {"text": "sentence", "label": "thing"}
    tasks = {
        "mood": {"teacher": str(small_bert), "data": str(reviews)},
        "topic": {"teacher": str(small_bert), "data": {"source": str(topics), "columns": columns}},
    }
    settings = {**CONFIG, "tasks": tasks, "output": str(tmp_path / "out")}
    DistillationPipeline.from_recipe(make_recipe(settings)).run()
    data = written(tmp_path / "new.jsonl", [{"text": "a lovely film"}, {"text": "this dull song"}])
    both = predicted(tmp_path / "out", data, tmp_path / "p.jsonl")
    assert {row["mood_prediction"] for row in both} <= {"good", "bad"}
    assert {row["topic_prediction"] for row in both} <= {"film", "book", "song"}
    topic = predicted(tmp_path / "out", data, tmp_path / "q.jsonl", task="topic")
    assert [row["prediction"] for row in topic] == [row["topic_prediction"] for row in both]
    assert sum(topic[0][f"probability_{name}"] for name in ("book", "film", "song")) == pytest.approx(1, abs=1e-5)
    with pytest.raises(RecipeError, match=r"there is no task 'genre'.*mood, topic.*--task mood"):
        predicted(tmp_path / "out", data, tmp_path / "r.jsonl", task="genre")
    by_teacher = predicted(tmp_path / "out", data, tmp_path / "s.jsonl", task="topic", model="teacher", runtime=None)
    assert set(by_teacher[0]) == set(topic[0])

    copy = Path(shutil.copytree(tmp_path / "out", tmp_path / "copy"))
    added = add_export(tmp_path / "out", "dynamic")
    assert f"student-{added.measured['name']}" in added.metrics.models
    found = compare([tmp_path / "out", copy], runtime="torch")
    assert found.differences[0].value == 0
    assert found.runs[0].value == pytest.approx(added.metrics.models["student"].quality["accuracy"])


def test_images_come_in_a_folder_or_as_paths(small_vit: Path, shapes: Path, tmp_path: Path) -> None:
    teacher = {"from_scratch": True, "epochs": 2, "learning_rate": 1e-3}
    run(small_vit, shapes, tmp_path / "out", teacher=teacher)
    files = sorted(shapes.glob("*/*.png"))
    folder = predicted(tmp_path / "out", shapes, tmp_path / "p.jsonl")
    assert [row["image"] for row in folder] == [str(file) for file in files]
    assert {row["prediction"] for row in folder} <= {"vertical", "horizontal"}
    listed = written(shapes / "list.jsonl", [{"nr": n, "file": str(file.relative_to(shapes))} for n, file in enumerate(files)])
    named = predicted(tmp_path / "out", listed, tmp_path / "q.jsonl")
    listed.unlink()
    assert [row["prediction"] for row in named] == [row["prediction"] for row in folder]
    assert named[5]["nr"] == 5
    loaded = potstill.load(tmp_path / "out")
    for rows in (files, [Image.open(file) for file in files], [{"image": str(file)} for file in files]):
        assert [answer["prediction"] for answer in loaded.predict(rows)] == [row["prediction"] for row in folder]
    name = add_export(tmp_path / "out", "openvino").measured["name"]
    served = predicted(tmp_path / "out", shapes, tmp_path / "s.jsonl", runtime="openvino")
    assert np.mean([row["prediction"] == other["prediction"] for row, other in zip(served, folder, strict=True)]) > 0.9
    assert Prediction(tmp_path / "out", Asked(shapes, runtime=name)).served_as.startswith("openvino")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(files[0].read_bytes())
    (broken / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken: .*b\.png cannot be read as an image"):
        predicted(tmp_path / "out", broken, tmp_path / "r.jsonl")
