"""What is pushed is the student, its exports and its card, and nothing of the machine it was made on."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
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

TOKEN = "hf_writes"


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


class Hub(ThreadingHTTPServer):
    """The addresses of a hub that a push uses, for one owner with one token."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        super().__init__(("127.0.0.1", 0), Answers)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        name = self.path.removeprefix("/api/models/").rpartition("/preupload/")[0] or self.path[12:].rpartition("/commit/")[0]
        if self.path == "/api/validate-yaml":
            self._give({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._give({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(text))
        elif "/preupload/" in self.path:
            files = json.loads(text)["files"]
            self._give({"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]})
        else:
            lines = [json.loads(line) for line in text.splitlines()]
            files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
            self.server.repositories[name]["files"] = files
            address = f"{self.server.address}/{name}/commit/{'1' * 40}"
            self._give({"success": True, "commitOid": "1" * 40, "commitUrl": address, "hookOutput": ""})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not name.startswith("me/"):
            self._give({"error": "You don't have the rights to create a model under this namespace"}, 403)
        elif name in self.server.repositories:
            self._give({"error": "You already created this model repo", "url": f"{self.server.address}/{name}"}, 409)
        else:
            self.server.repositories[name] = {"visibility": asked.get("visibility"), "files": {}}
            self._give({"url": f"{self.server.address}/{name}"})

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/")
        if name in self.server.repositories:
            self._give({"id": name, "siblings": [], "sha": "0" * 40})
        else:
            self._give({"error": "Repository not found"}, 404)

    def _give(self, answer: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def test_what_is_pushed(output: Path, hub: Hub, tmp_path: Path) -> None:
    address = push_to_hub(output, "me/small", private=True, token=TOKEN)
    assert address == f"{hub.address}/me/small/commit/{'1' * 40}"
    made = hub.repositories["me/small"]
    assert made["visibility"] == "private"
    assert set(made["files"]) == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "export/model.onnx"}
    assert made["files"]["export/model.onnx"] == b"onnx"
    for name, content in made["files"].items():
        assert str(tmp_path).encode() not in content, name
        assert TOKEN.encode() not in content
    text = made["files"]["README.md"].decode()
    head = yaml.safe_load(text.split("---")[1])
    assert head["language"] == ["en"]
    assert "base_model" not in head  # a path of this machine is no name for others
    assert {"license", "pipeline_tag", "library_name", "tags", "metrics"} <= head.keys()
    assert "me/small" in text
    assert "reviews.csv" in text
    assert huggingface_hub.ModelCard(text).data.language == ["en"]


def test_a_repository_that_is_there_is_pushed_to_again(output: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    Result.of_folder(output).push_to_hub("me/small")
    (output / "student" / "model.safetensors").write_text("other weights", "utf-8")
    found = CliRunner().invoke(app, ["push", str(output), "me/small", "--json"])
    assert found.exception is None, repr(found.exception)
    assert json.loads(found.stdout)["commit"].startswith(hub.address)
    assert hub.repositories["me/small"]["visibility"] is None
    assert hub.repositories["me/small"]["files"]["model.safetensors"] == b"other weights"


@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        ("me/small", "hf_wrong", r"401.*hf auth login"),
        ("others/small", TOKEN, r"(403|rights).*token with write access"),
        ("me/sm all", TOKEN, r"name it owner/name"),
        ("a/b/c", TOKEN, r"name it owner/name"),
    ],
)
def test_what_the_hub_refuses(output: Path, hub: Hub, name: str, token: str, words: str) -> None:
    with pytest.raises(OutputError, match=f"(?s)could not be pushed.*{words}"):
        push_to_hub(output, name, token=token)
    assert hub.repositories == {}


def test_a_push_without_a_token(output: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    found = CliRunner().invoke(app, ["push", str(output), "me/small"])
    assert isinstance(found.exception, OutputError)
    assert "log in with hf auth login" in str(found.exception)


def test_a_hub_that_does_not_answer(output: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OutputError, match=r"HF_HUB_OFFLINE.*what was trained is kept"):
        push_to_hub(output, "me/small", token=TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OutputError, match="check the connection"):
        push_to_hub(output, "me/small", token=TOKEN)


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
