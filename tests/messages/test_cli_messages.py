"""What a person sees on the command line when something is wrong: three beats, exit code 2, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from potstill import cli
from potstill.cli import application
from potstill.cli.runs import recipe_of


def run_cli(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    monkeypatch.setattr("sys.argv", ["potstill", *arguments])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A small labelled file."""
    file = tmp_path / "reviews.csv"
    file.write_text("text,label\n" + "".join(f"text {i},{'good' if i % 2 else 'bad'}\n" for i in range(40)), "utf-8")
    return file


CASES = [
    (["distill"], ["'teacher' is missing", "--teacher", "'data' is missing", "--data"]),
    (["distill", "nowhere.yaml"], ["nowhere.yaml", "a YAML file"]),
    (
        ["distill", "--teacher", "t", "--data", "d", "--set", "distill.epoch=5"],
        ["'distill.epoch'", "did you mean distill.epochs?"],
    ),
    (["distill", "--teacher", "t", "--data", "d", "--ratio", "1.5"], ["'student.ratio' is 1.5", "0.95"]),
    (["distill", "--teacher", "t", "--data", "d", "--method", "magic", "--set", "student.ratio=2"], ["'student.ratio' is 2"]),
    (["distill", "--ratio", "much"], ["--ratio", "number"]),
    (["distil"], ["distil"]),
    (["evaluate", "nowhere"], ["nowhere holds no finished run", "potstill distill"]),
    (["report", "nowhere"], ["nowhere"]),
]


@pytest.mark.parametrize(("arguments", "words"), CASES, ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "")
def test_faults_of_the_command_line(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli(arguments, monkeypatch, capsys)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not (tmp_path / "out").exists()


def test_a_missing_teacher_names_itself(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = run_cli(
        ["distill", "--teacher", str(tmp_path / "empty"), "--data", str(reviews), "-o", str(tmp_path / "out")],
        monkeypatch,
        capsys,
    )
    assert code == 2
    assert "config.json" in err


def test_a_missing_data_file_names_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "bert")
    code, _, err = run_cli(
        ["distill", "--teacher", str(tmp_path / "bert"), "--data", str(tmp_path / "none.csv"), "-o", str(tmp_path / "out")],
        monkeypatch,
        capsys,
    )
    assert code == 2
    assert "none.csv" in err or "tokenizer" in err


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(application, "app", interrupted)
    code, _, err = run_cli(["distill"], monkeypatch, capsys)
    assert code == 130
    assert "run the same command again" in err


def test_schema_and_lists_are_json_for_machines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["schema"], ["schema", "--metrics"], ["losses", "--json"], ["methods", "--json"], ["doctor", "--json"]):
        code, out, _ = run_cli(arguments, monkeypatch, capsys)
        assert code == 0, arguments
        assert json.loads(out)


def test_flags_are_laid_over_the_recipe_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"teacher": "./a", "data": "b.csv", "ratio": 0.5}), "utf-8")
    recipe = recipe_of({"recipe": file, "ratio": 0.8, "settings": ["distill.epochs=2"]})
    assert recipe.student.ratio == 0.8
    assert recipe.distill.epochs == 2
    assert recipe.teacher.model == "./a"
