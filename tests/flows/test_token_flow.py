"""The real pipeline on tags of words, and on texts longer than the window."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill import DistillationPipeline
from potstill.data.encoded import open_rows
from potstill.flows.reevaluate import reevaluate
from potstill.report.metrics import Metrics

NAMES = {"PER": ["bright", "lovely", "warm"], "LOC": ["dull", "dreary", "cold"]}
OTHERS = ["film", "book", "song", "play", "the", "a", "was", "is", "very"]
SETTINGS: dict[str, Any] = {
    "teacher": {"epochs": 10, "learning_rate": 3e-3},
    "compression_ratio": 0.5,
    "distill": {"epochs": 3, "learning_rate": 3e-3},
    "quantize": "dynamic",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 16},
}


def tagged(count: int, seed: int) -> list[dict[str, list[str]]]:
    """Rows in which certain words are entities, or begin one of two words."""
    chance, rows = random.Random(seed), []
    for _ in range(count):
        tokens, tags = [], []
        for _ in range(chance.randint(2, 6)):
            tokens.append(chance.choice(OTHERS))
            tags.append("O")
            if chance.random() < 0.4:
                kind = chance.choice(sorted(NAMES))
                for place in range(chance.randint(1, 2)):
                    tokens.append(NAMES[kind][place])
                    tags.append(f"{'I' if place else 'B'}-{kind}")
        rows.append({"tokens": tokens, "tags": tags})
    return rows


@pytest.fixture(scope="module")
def tagged_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON Lines file of 240 tagged rows."""
    file = tmp_path_factory.mktemp("tags") / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in tagged(240, seed=0)), "utf-8")
    return file


@pytest.fixture(scope="module")
def finished(small_bert: Path, tagged_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    """A whole run on tags, done once."""
    output = tmp_path_factory.mktemp("flow") / "out"
    config = {**SETTINGS, "task": "token-classification", "data": {"augment": 1}, "baseline": True}
    return output, DistillationPipeline(teacher_model=small_bert, data=tagged_file, config=config, output_dir=output).run()


def test_tags_are_taught_measured_and_served(finished: tuple[Path, Metrics]) -> None:
    output, metrics = finished
    assert metrics.metric == "f1"
    assert metrics.models["teacher"].quality["f1"] > 0.8
    assert {"f1", "precision", "recall", "accuracy"} <= set(metrics.models["student"].quality)
    assert metrics.models["student"].quality["f1"] > 0.5
    assert {"teacher", "baseline", "student", "student-int8"} <= set(metrics.models)
    assert metrics.ratio.achieved == pytest.approx(0.5, abs=0.011)
    assert {one.label for one in metrics.per_class} == {"B-LOC", "B-PER", "I-LOC", "I-PER", "O"}
    assert (output / "report/index.html").is_file()
    assert json.loads((output / "student/config.json").read_text())["architectures"][0].endswith("ForTokenClassification")


def test_every_row_of_the_cache_has_as_many_answers_as_words(finished: tuple[Path, Metrics]) -> None:
    output, _ = finished
    teacher, student = open_rows(output / "work/data/encoded/train"), open_rows(output / "work/student/encoded/train")
    assert np.array_equal(teacher.num_units, student.num_units)  # type: ignore[attr-defined]
    for mine, theirs in zip(student, teacher):
        assert np.array_equal(mine["labels"], theirs["labels"])


def test_a_finished_run_is_measured_again_with_the_same_figures(finished: tuple[Path, Metrics]) -> None:
    output, metrics = finished
    again = reevaluate(output)
    assert again["models"]["student"]["quality"]["f1"] == pytest.approx(metrics.models["student"].quality["f1"], abs=1e-6)


def test_long_texts_are_read_in_segments_and_their_answers_averaged(small_bert: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    rows = []
    for number in range(120):
        label = ("good", "bad")[number % 2]
        words = [chance.choice(OTHERS) for _ in range(90 if number % 3 == 0 else 8)]
        words.insert(chance.randrange(len(words)), {"good": "lovely", "bad": "dreary"}[label])
        rows.append({"text": " ".join(words), "label": label})
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    config = {**SETTINGS, "data": {"augment": "none"}, "quantize": "none", "baseline": False}
    metrics = DistillationPipeline(teacher_model=small_bert, data=file, config=config, output_dir=tmp_path / "out").run()
    assert any("overlapping segments" in note for note in metrics.data.notes)
    assert not any("were cut" in note for note in metrics.data.notes)
    encoded = open_rows(tmp_path / "out/work/data/encoded/train")
    assert encoded.groups is not None
    assert len(np.unique(encoded.groups)) < len(encoded)
    assert encoded.lengths.max() <= 64


def test_spans_are_taught_and_scored_by_text(small_bert: Path, tmp_path: Path) -> None:
    chance, rows = random.Random(0), []
    for number in range(160):
        words = [chance.choice(OTHERS) for _ in range(70 if number % 4 == 0 else 7)]
        kind = chance.choice(sorted(NAMES))
        answer = chance.choice(NAMES[kind])
        words.insert(chance.randrange(len(words)), answer)
        context = " ".join(words)
        rows.append(
            {
                "question": f"the {OTHERS[0]}",
                "context": context,
                "answers": [{"text": answer, "answer_start": context.find(answer)}],
            }
        )
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    config = {**SETTINGS, "task": "question-answering", "quantize": "none", "baseline": False}
    metrics = DistillationPipeline(teacher_model=small_bert, data=file, config=config, output_dir=tmp_path / "out").run()
    assert metrics.metric == "f1"
    assert {"f1", "exact_match"} <= set(metrics.models["student"].quality)
    assert metrics.models["teacher"].quality["exact_match"] > 0.5
    assert any("overlapping windows" in note for note in metrics.data.notes)
    again = reevaluate(tmp_path / "out")
    assert again["models"]["student"]["quality"]["f1"] == pytest.approx(metrics.models["student"].quality["f1"], abs=1e-6)
