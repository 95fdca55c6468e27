"""Predictions for new rows: equal to what was measured, in every form of answer, streamed, whole or not at all."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import potstill
from potstill import DistillationPipeline
from potstill.cli import app
from potstill.data.run_rows import read_facts
from potstill.errors import DataError, OutputError, RecipeError
from potstill.flows import prediction
from potstill.flows.prediction import Asked, Prediction
from potstill.flows.prediction_files import check_output, written_whole
from potstill.report.metrics import Metrics

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 4, "learning_rate": 3e-3},
    "data": {"augment": "none"},
    "student": {"ratio": 0.5},
    "distill": {"epochs": 3, "learning_rate": 3e-3},
    "quantize": "dynamic",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 1},
}


def run(teacher: Path, data: Any, output: Path, /, **changes: Any) -> Metrics:
    return DistillationPipeline(teacher, data, {**CONFIG, **changes}, output).run()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def predict(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(small_bert: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    output = tmp_path_factory.mktemp("flow") / "out"
    return output, run(small_bert, reviews, output)


@pytest.fixture(scope="module")
def test_rows(finished: tuple[Path, Metrics], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's own test split as a user would have it, with ids."""
    from datasets import load_from_disk

    folder = finished[0] / "work" / "data"
    names = read_facts(folder)["label_names"]
    file = tmp_path_factory.mktemp("new") / "new.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text", "label"])
        for number, row in enumerate(load_from_disk(str(folder / "splits" / "test"))):
            writer.writerow([f"{number:03d}", row["text"], names[row["label"]]])
    return file


@pytest.mark.parametrize(("runtime", "model"), [("torch", "student"), ("onnx", None), ("int8", "student-int8"), (None, None)])
def test_the_accuracy_of_predictions_is_the_measured_one(
    runtime: str | None, model: str | None, finished: tuple[Path, Metrics], test_rows: Path, tmp_path: Path
) -> None:
    output, metrics = finished
    flags = [] if runtime is None else ["--runtime", runtime]
    result = predict(output, "--data", test_rows, "-o", tmp_path / "p.jsonl", *flags)
    assert result.exit_code == 0, result.output
    found = lines(tmp_path / "p.jsonl")
    assert [row["id"] for row in found] == [f"{number:03d}" for number in range(len(found))]
    right = np.mean([row["prediction"] == row["label"] for row in found])
    assert right == pytest.approx(metrics.models[model or metrics.served or "student"].quality["accuracy"])
    for row in found:
        chances = {name: row[f"probability_{name}"] for name in ("bad", "good")}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(chances, key=lambda name: chances[name])
        assert row["probability"] == max(chances.values())


def test_the_teacher_predicts_what_was_measured(finished: tuple[Path, Metrics], test_rows: Path, tmp_path: Path) -> None:
    output, metrics = finished
    assert predict(output, "--data", test_rows, "-o", tmp_path / "p.jsonl", "--model", "teacher").exit_code == 0
    found = lines(tmp_path / "p.jsonl")
    right = np.mean([row["prediction"] == row["label"] for row in found])
    assert right == pytest.approx(metrics.models["teacher"].quality["accuracy"])


def test_labels_are_said_to_be_ignored_and_are_not_needed(
    finished: tuple[Path, Metrics], test_rows: Path, tmp_path: Path
) -> None:
    result = predict(finished[0], "--data", test_rows, "-o", tmp_path / "p.csv")
    assert "labels are not needed and not read ('label')" in result.stderr
    assert f"potstill evaluate {finished[0]} --data {test_rows}" in result.stderr
    (tmp_path / "bare.txt").write_text("a lovely film\na dull book\n", "utf-8")
    assert not Prediction(finished[0], Asked(tmp_path / "bare.txt")).notes


def test_every_file_says_the_same_and_csv_is_the_default_on_stdout(
    finished: tuple[Path, Metrics], test_rows: Path, tmp_path: Path
) -> None:
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        assert predict(finished[0], "--data", test_rows, "-o", tmp_path / f"p.{suffix}").exit_code == 0
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as stream:
        from_csv = list(csv.DictReader(stream))
    from_json, from_parquet = lines(tmp_path / "p.jsonl"), pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert list(from_csv[0]) == list(from_json[0]) == list(from_parquet[0])
    for one, two, three in zip(from_csv, from_json, from_parquet, strict=True):
        assert one["prediction"] == two["prediction"] == three["prediction"]
        assert float(one["probability_good"]) == pytest.approx(two["probability_good"], abs=1e-6)
        assert two["probability_good"] == pytest.approx(three["probability_good"])
    printed = predict(finished[0], "--data", test_rows)
    assert printed.stdout == (tmp_path / "p.csv").read_text("utf-8")
    assert predict(finished[0], "--data", test_rows, "--json").stdout == (tmp_path / "p.jsonl").read_text("utf-8")


def test_kept_columns_and_the_likeliest_classes_are_options(
    finished: tuple[Path, Metrics], test_rows: Path, tmp_path: Path
) -> None:
    result = predict(finished[0], "--data", test_rows, "-o", tmp_path / "p.jsonl", "--keep", "id", "--top", 1, "--json")
    assert json.loads(result.stdout)["rows"] == len(lines(tmp_path / "p.jsonl"))
    assert set(lines(tmp_path / "p.jsonl")[0]) == {"id", "prediction", "probability", "top_1", "top_1_probability"}
    assert all(row["top_1"] == row["prediction"] for row in lines(tmp_path / "p.jsonl"))
    predict(finished[0], "--data", test_rows, "-o", tmp_path / "p.jsonl", "--keep", "none", "--overwrite")
    assert "id" not in lines(tmp_path / "p.jsonl")[0]


def test_rows_are_answered_in_parts(
    finished: tuple[Path, Metrics], test_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    predict(finished[0], "--data", test_rows, "-o", whole, "--runtime", "torch")
    monkeypatch.setattr(prediction, "PART_ROWS", 7)
    predict(finished[0], "--data", test_rows, "-o", parts, "--runtime", "torch")
    assert [row["prediction"] for row in lines(parts)] == [row["prediction"] for row in lines(whole)]


def _interrupted(file: Path) -> None:
    with written_whole(file) as writer:
        writer.write(pa.table({"a": [1]}))
        raise KeyboardInterrupt


def test_an_interrupted_prediction_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("before", "utf-8")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(file)
    assert file.read_text("utf-8") == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["p.csv"]


def test_files_that_must_not_be_written_are_refused_first(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("before", "utf-8")
    with pytest.raises(OutputError, match=r"is there already.*add --overwrite"):
        check_output(file, overwrite=False)
    check_output(file, overwrite=True)
    with pytest.raises(OutputError, match=r"is the file of the data.*another name with -o"):
        check_output(file, overwrite=True, data=file)
    with pytest.raises(OutputError, match=r"\.csv, \.tsv, \.jsonl, \.parquet"):
        check_output(tmp_path / "p.xlsx", overwrite=False)
    with pytest.raises(OutputError, match=r"does not exist.*mkdir -p"):
        check_output(tmp_path / "no" / "p.csv", overwrite=False)
    with pytest.raises(OutputError, match=r"is a folder"):
        check_output(_folder(tmp_path / "f.csv"), overwrite=False)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_columns_are_those_of_the_run_and_else_asked_for(finished: tuple[Path, Metrics], tmp_path: Path) -> None:
    def rows(**columns: list[str]) -> Path:
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(json.dumps(dict(zip(columns, row))) for row in zip(*columns.values())), "utf-8")
        return file

    # the run read `text`; a longer column of another usual name does not take its place
    both = rows(review=["a very long dull review of a film"], text=["lovely"])
    assert Prediction(finished[0], Asked(both)).roles == {None: {"text": "text"}}
    assert Prediction(finished[0], Asked(rows(review=["dull"]))).roles == {None: {"text": "review"}}
    unclear = rows(one=["dull"], two=["lovely"])
    with pytest.raises(DataError, match=r"--column text=review"):
        Prediction(finished[0], Asked(unclear))
    assert Prediction(finished[0], Asked(unclear, columns={"text": "two"})).roles == {None: {"text": "two"}}
    with pytest.raises(DataError, match=r"and the run was trained on text"):
        Prediction(finished[0], Asked(rows(premise=["dull"], hypothesis=["lovely"])))


def test_wrong_requests_say_what_is_accepted(finished: tuple[Path, Metrics], test_rows: Path, tmp_path: Path) -> None:
    folder = finished[0]
    with pytest.raises(RecipeError, match=r"no export for 'openvino'.*torch, onnx.*potstill export .* --to openvino"):
        Prediction(folder, Asked(test_rows, runtime="openvino"))
    with pytest.raises(RecipeError, match=r"student or teacher"):
        Prediction(folder, Asked(test_rows, model="baseline"))
    with pytest.raises(RecipeError, match=r"this student has one task.*leave --task out"):
        Prediction(folder, Asked(test_rows, task="mood"))
    with pytest.raises(DataError, match=r"--keep names 'nr'.*id, text, label"):
        Prediction(folder, Asked(test_rows, keep="nr"))
    with pytest.raises(RecipeError, match=r"--top is 0"):
        Prediction(folder, Asked(test_rows, top=0))
    with pytest.raises(RecipeError, match=r"--runtime is given for the teacher"):
        Prediction(folder, Asked(test_rows, model="teacher", runtime="onnx"))
    with pytest.raises(OutputError, match=r"holds no finished run"):
        Prediction(tmp_path, Asked(test_rows))
    splits = tmp_path / "splits"
    splits.mkdir()
    for name in ("train", "test"):
        (splits / f"{name}.csv").write_bytes(test_rows.read_bytes())
    with pytest.raises(DataError, match=r"has the splits test, train.*add --split"):
        Prediction(folder, Asked(splits))
    assert Prediction(folder, Asked(splits, split="test")).rows.num_rows == 40
    again = tmp_path / "again.csv"
    predict(folder, "--data", test_rows, "-o", again)
    taken = predict(folder, "--data", again, "-o", tmp_path / "twice.csv", "--keep", "all")
    assert "the data have a column 'prediction'" in str(taken.exception)
    assert "--keep id,text,label" in str(taken.exception)
    assert not (tmp_path / "twice.csv").exists()
    assert "has no ROLE=NAME" in str(predict(folder, "--data", test_rows, "--column", "text").exception)


def test_a_run_from_memory_predicts(finished: tuple[Path, Metrics], small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(0)
    names = {0: "bad", 1: "good"}
    teacher = BertForSequenceClassification.from_pretrained(small_bert, id2label=names, label2id={"bad": 0, "good": 1})
    tokenizer = AutoTokenizer.from_pretrained(small_bert)
    settings = {**CONFIG, "distill": {"epochs": 0.1, "learning_rate": 1e-3}, "quantize": "none"}
    DistillationPipeline(teacher, Dataset.from_csv(str(reviews)), settings, tmp_path / "out", processor=tokenizer).run()
    new = tmp_path / "new.txt"
    new.write_text("a lovely film\n", "utf-8")
    assert predict(tmp_path / "out", "--data", new, "-o", tmp_path / "p.jsonl").exit_code == 0
    assert lines(tmp_path / "p.jsonl")[0]["prediction"] in ("bad", "good")


def test_a_student_that_predicts_tokens_is_refused(finished: tuple[Path, Metrics], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "student").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("teacher: t\ndata: d\n", "utf-8")
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (folder / "student" / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(OutputError, match=r"predicts tokens.*AutoModelForCausalLM\.from_pretrained"):
        Prediction(folder, Asked(tmp_path))


def test_a_folder_without_its_teacher_still_predicts(
    small_bert: Path, reviews: Path, test_rows: Path, finished: tuple[Path, Metrics], tmp_path: Path
) -> None:
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(finished[0], moved, ignore=shutil.ignore_patterns("work", "teacher"))
    recipe = (moved / "recipe.yaml").read_text("utf-8").replace(str(small_bert), str(tmp_path / "gone"))
    (moved / "recipe.yaml").write_text(recipe, "utf-8")
    assert predict(moved, "--data", test_rows, "-o", tmp_path / "p.csv").exit_code == 0


def test_a_loaded_student_answers_in_words(finished: tuple[Path, Metrics], tmp_path: Path) -> None:
    texts = ["a good film", "bad", "the longest of these texts, " * 30, ""]
    loaded = potstill.load(finished[0])
    model, processor = loaded
    assert (model, processor) == (loaded.model, loaded.processor)
    answers = loaded.predict(texts)
    assert [set(answer) >= {"prediction", "probabilities"} for answer in answers] == [True] * 4
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert max(answer["probabilities"], key=answer["probabilities"].get) == answer["prediction"]
    served = loaded.predict(texts, runtime="onnx", batch_size=2)
    assert [answer["prediction"] for answer in served] == [answer["prediction"] for answer in answers]
    shutil.copytree(finished[0] / "student", tmp_path / "copied")
    alone = potstill.load(tmp_path / "copied")
    assert [answer["prediction"] for answer in alone.predict(texts)] == [answer["prediction"] for answer in answers]
    assert loaded.predict([]) == []
    with pytest.raises(RecipeError, match="student alone"):
        alone.predict(texts, runtime="onnx")
    with pytest.raises(RecipeError, match="no export for 'tensorrt'"):
        loaded.predict(texts, runtime="tensorrt")
    with pytest.raises(DataError, match=r"predict\(\[row\]\)"):
        loaded.predict("a good film")
    with pytest.raises(DataError, match="row 1 is a mapping with the keys words"):
        loaded.predict([{"text": "a"}, {"words": "b"}])
    with pytest.raises(DataError, match="rows of one kind"):
        loaded.predict(["a", ("b", "c")])


def test_columns_and_tables_of_pandas_are_answered(finished: tuple[Path, Metrics]) -> None:
    import pandas as pd

    loaded = potstill.load(finished[0])
    frame = pd.DataFrame({"text": ["dull", "a good film", "bad", "a bad film"], "stars": [1, 5, 1, 2]}).iloc[1:]
    wanted = [answer["prediction"] for answer in loaded.predict(["a good film", "bad", "a bad film"])]
    for rows in (frame, frame["text"], frame["text"].to_numpy(), frame.to_dict("records")):
        assert [answer["prediction"] for answer in loaded.predict(rows)] == wanted
    empty = pd.Series(["a good film", None, float("nan")])
    assert loaded.predict(empty) == loaded.predict(["a good film", None, None])
    with pytest.raises(DataError, match="rows make no table"):
        loaded.predict(["a good film", "\ud800"])
    with pytest.raises(DataError, match="rows make no table"):
        loaded.predict([{"text": "a good film"}, {"text": ["a", "film"]}])
    with pytest.raises(RecipeError, match="batch_size is 0"):
        loaded.predict(["a good film"], batch_size=0)


def test_data_frames_and_lists_are_data(finished: tuple[Path, Metrics], small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    import pandas as pd
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    frame = pd.read_csv(reviews)
    results = []
    for number, data in enumerate((frame, frame.to_dict("records"))):
        names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
        teacher = AutoModelForSequenceClassification.from_pretrained(small_bert, **names)
        tokenizer = AutoTokenizer.from_pretrained(small_bert)
        settings = CONFIG | {"quantize": "none", "distill": {"epochs": 1, "learning_rate": 3e-3}}
        pipeline = DistillationPipeline(teacher, data, settings, tmp_path / str(number), processor=tokenizer)
        results.append(pipeline.run())
        assert pipeline.run().models == results[-1].models  # found again
    assert results[0].data.rows == results[1].data.rows == finished[1].data.rows
