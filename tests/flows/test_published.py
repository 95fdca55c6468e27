"""What real runs publish: whole for others, with nothing of the machine, its code run in the folder that others get."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from isolated import run_without
from language.language_builders import save_decoder, write_chats
from potstill import DistillationPipeline
from potstill.exports.catalogue import format_named
from potstill.report.metrics import Metrics
from potstill.report.publish import repository

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 2, "learning_rate": 3e-3},
    "data": {"augment": "none"},
    "student": {"ratio": 0.5},
    "distill": {"epochs": 1},
    "quantize": "dynamic",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 1, "similarity_rows": 16},
}
PATH = re.compile(rb"/(?:home|tmp|root|usr|var|opt|work|private|Users)/[\w.+-]+")


@pytest.fixture(scope="module")
def teacher(small_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with a card, whose files name folders of the machine that it was made on."""
    folder = Path(shutil.copytree(small_bert, tmp_path_factory.mktemp("models") / "my-bert"))
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# A teacher\n", "utf-8")
    return with_paths(folder)


def with_paths(folder: Path) -> Path:
    """The model, with paths of a machine in its files."""
    for name, own in (
        ("config.json", {"_name_or_path": "/home/me/models/bert", "saved_by": {"source_file": "/home/me/train.py"}}),
        ("tokenizer_config.json", {"name_or_path": "/home/me/models/bert", "vocab_file": "/home/me/models/bert/vocab.txt"}),
    ):
        values = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps(values | own), "utf-8")
    return folder


def published(output: Path, folder: Path) -> dict[str, Any]:
    """The head of the card, once everything else is checked."""
    names = repository(output, folder, "me/small")
    assert names == sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    for name in names:
        content = (folder / name).read_bytes()
        assert PATH.findall(content) == [], name
        assert str(output.parent).encode() not in content, name
        assert not {"stage.json", "facts.json", "optimizer.pt"} & set(Path(name).parts)
    text = (folder / "README.md").read_text("utf-8")
    assert "report/" not in text
    assert "student/" not in text
    return dict(yaml.safe_load(text.split("---\n")[1]))


def codes(folder: Path) -> list[str]:
    """The blocks of Python on the card."""
    return [part.split("```")[0] for part in (folder / "README.md").read_text("utf-8").split("```python\n")[1:]]


def test_a_classifier_is_published(teacher: Path, reviews: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    DistillationPipeline(teacher, reviews, CONFIG, output).run()
    (output / "student" / ".cache").mkdir()
    (output / "student" / ".cache" / "upload.json").write_text(str(tmp_path), "utf-8")
    head = published(output, tmp_path / "repository")
    assert (head["license"], head["language"]) == ("mit", ["en"])
    assert "base_model" not in head
    assert "datasets" not in head
    assert head["model-index"][0]["name"] == "small"
    torch_code, onnx_code = codes(tmp_path / "repository")
    assert 'model="me/small"' in torch_code
    lines = run_without(["potstill", "torch", "transformers"], onnx_code, tmp_path / "repository").strip().splitlines()
    assert len(lines) == 2
    assert {line.split()[-2] for line in lines} <= {"good", "bad"}
    run_without(["potstill"], torch_code.replace("me/small", "."), tmp_path / "repository")


def test_all_files_of_an_export_are_published_and_no_others(teacher: Path, reviews: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "student").mkdir(parents=True)
    (output / "student" / "config.json").write_text("{}", "utf-8")
    (output / "export" / "folder").mkdir(parents=True)
    for name in (
        "model.onnx",
        "model.onnx_data",
        "model.candidate.onnx",
        "small.xml",
        "small.bin",
        "folder/part.bin",
        "left.bin",
    ):
        (output / "export" / name).write_text("", "utf-8")
    parts = [file.name for file in format_named("onnx").files(output / "export" / "model.onnx")]
    files = {"student": "student", "onnx": "export/model.onnx", "openvino": "export/small.xml", "other": "export/folder"}
    Metrics(task="text-classification", metric="accuracy", files=files).write(output / "report" / "metrics.json")
    found = repository(output, tmp_path / "repository", "me/small")
    exported = {Path(name).name for name in found if name.startswith("export/")}
    assert exported == {*parts, "small.xml", "small.bin", "part.bin"}


def test_a_language_model_is_published(tmp_path: Path) -> None:
    large, small = save_decoder(tmp_path / "large"), save_decoder(tmp_path / "small", seed=1, num_hidden_layers=1)
    with_paths(large)
    with_paths(small)
    settings = {"student": {"model": str(small)}, "distill": {"epochs": 1, "batch_size": 4}, "language": {"window": 64}}
    DistillationPipeline(str(large), str(write_chats(tmp_path / "chats.jsonl")), settings, tmp_path / "out").run()
    head = published(tmp_path / "out", tmp_path / "repository")
    assert head["pipeline_tag"] == "text-generation"
    (code,) = codes(tmp_path / "repository")
    run_without(["potstill"], code.replace("me/small", "."), tmp_path / "repository")
