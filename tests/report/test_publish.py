"""What is pushed is the student, its exports and its card, and nothing of the machine it was made on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml
from typer.testing import CliRunner

from potstill.cli import app
from potstill.errors import OutputError
from potstill.report.metrics import Metrics
from potstill.report.origin import origin_of
from potstill.report.publish import files_to_push, push_to_hub
from potstill.report.result import Result


@pytest.fixture
def output(metrics: Metrics, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    files = {
        "student/config.json": json.dumps({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}),
        "student/model.safetensors": "weights",
        "student/tokenizer.json": "{}",
        "student/facts.json": json.dumps({"place": str(tmp_path)}),
        "student/stage.json": "{}",
        "export/model.onnx": "onnx",
        "export/candidate.onnx": "not kept",
        "export/facts.json": "{}",
        "work/cache/logits.npy": "cache",
        "recipe.yaml": f"output: {folder}",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    found = metrics.model_copy(
        update={
            "files": {"student": "student", "onnx": "export/model.onnx"},
            "teacher": str(tmp_path / "my-bert"),
            "languages": ["en"],
        }
    )
    found.data.source = str(tmp_path / "reviews.csv")
    found.write(folder / "report" / "metrics.json")
    return folder


class Hub:
    """The hub's client as far as it is used, which keeps what it is given."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if repo_id == "other/name":
            raise ValueError("403 Forbidden: no write access")
        Hub.made = {"repo_id": repo_id, "private": private, "exist_ok": exist_ok, "token": self.token}

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        Hub.files = {
            file.relative_to(folder_path).as_posix(): file.read_text("utf-8")
            for file in sorted(Path(folder_path).rglob("*"))
            if file.is_file()
        }
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


def test_what_is_pushed(output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push_to_hub(output, "me/small", private=True, token="secret") == "https://hub/me/small/commit/1"
    assert Hub.made == {"repo_id": "me/small", "private": True, "exist_ok": True, "token": "secret"}
    assert set(Hub.files) == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "export/model.onnx"}
    for name, text in Hub.files.items():
        assert str(tmp_path) not in text, name
        assert "secret" not in text
    head = yaml.safe_load(Hub.files["README.md"].split("---")[1])
    assert head["language"] == ["en"]
    assert "base_model" not in head  # a path of this machine is no name for others
    assert {"license", "pipeline_tag", "library_name", "tags", "metrics"} <= head.keys()
    assert "me/small" in Hub.files["README.md"]
    assert "reviews.csv" in Hub.files["README.md"]
    assert huggingface_hub.ModelCard(Hub.files["README.md"]).data.language == ["en"]


def test_the_command_and_the_result_push(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    found = CliRunner().invoke(app, ["push", str(output), "me/small", "--json"])
    assert json.loads(found.stdout) == {"commit": "https://hub/me/small/commit/1"}
    assert Hub.made["private"] is False
    assert Result.of_folder(output).push_to_hub("me/other").endswith("/me/other/commit/1")
    with pytest.raises(OutputError, match=r"no write access.*token"):
        push_to_hub(output, "other/name")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no finished run"):
        files_to_push(tmp_path)


def write_card(folder: Path, head: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\n{head}\n---\n# A teacher\n", "utf-8")
    return str(folder)


UNKNOWN = {"base_models": [], "datasets": [], "license": None, "languages": []}


@pytest.mark.parametrize("head", [": {broken", "just words", "license: [mit]\nlanguage: no", ""])
def test_what_a_card_does_not_say_is_unknown(head: str, tmp_path: Path) -> None:
    assert origin_of([str(tmp_path)], []) == UNKNOWN
    assert origin_of([write_card(tmp_path, head)], [str(tmp_path)]) == UNKNOWN


def test_licence_and_languages_are_what_the_cards_of_all_teachers_say(tmp_path: Path) -> None:
    one = write_card(tmp_path / "one", "license: mit\nlanguage: [en, zh, de]")
    two = write_card(tmp_path / "two", "license: mit\nlanguage:\n- de\n- en")
    other = write_card(tmp_path / "other", "license: apache-2.0\nlanguage: en")
    assert origin_of([one, one], []) == {**UNKNOWN, "license": "mit", "languages": ["en", "zh", "de"]}
    assert origin_of([one, two], []) == {**UNKNOWN, "license": "mit", "languages": ["en", "de"]}
    assert origin_of([one, other], []) == {**UNKNOWN, "languages": ["en"]}
    assert origin_of([one, str(tmp_path)], []) == UNKNOWN


def test_hub_ids_are_names_of_that_form_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "teacher").mkdir(parents=True)
    (tmp_path / "rows.csv").touch()
    teachers = ["org/bert", "models/teacher", "<in memory>", "package.module:teacher", str(tmp_path), "tiny-bert", "org/bert"]
    found = origin_of(teachers, ["rows.csv", "org/reviews:small", "<in memory>", str(tmp_path / "rows.csv")])
    assert found == {**UNKNOWN, "base_models": ["org/bert", "tiny-bert"], "datasets": ["org/reviews"]}


def test_the_card_of_a_teacher_of_the_hub_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models--org--bert"
    write_card(folder / "snapshots" / "abc", "license: apache-2.0\nlanguage: zh")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc", "utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found = origin_of(["org/bert"], [])
    assert found == {"base_models": ["org/bert"], "datasets": [], "license": "apache-2.0", "languages": ["zh"]}
