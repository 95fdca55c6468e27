"""Bad input, given to the real command: one clear line in three beats, exit code 2, no traceback, nothing written over."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import transformers

from flows.small_families import image_folder, image_teacher, text_teacher, texts
from potstill import cli

ROWS = [f"{text},{label}" for text, label in zip(*texts(60), strict=True)]
HEADER = "text,label"


@dataclass(frozen=True)
class World:
    """What every case starts from; nothing in it may be changed."""

    teacher: Path
    viewer: Path
    reviews: Path
    pictures: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A text teacher, an image teacher, and good data for both."""
    folder = tmp_path_factory.mktemp("world")
    reviews = folder / "reviews.csv"
    reviews.write_text("\n".join([HEADER, *ROWS]), "utf-8")
    return World(
        text_teacher(folder / "bert", "bert", num_hidden_layers=1),
        image_teacher(folder / "vit", "vit", num_hidden_layers=1),
        reviews,
        image_folder(folder / "pictures", count=24),
    )


@dataclass(frozen=True)
class Case:
    """One fault: how it is made, and the words that the message must hold."""

    name: str
    make: Callable[[World, Path], list[str]]
    words: tuple[str, ...]


def csv(*rows: str, header: str = HEADER, encoding: str = "utf-8") -> Callable[[World, Path], list[str]]:
    """The text teacher with a file of these rows."""

    def make(world: World, folder: Path) -> list[str]:
        file = folder / "rows.csv"
        file.write_bytes("\n".join([header, *rows]).encode(encoding) if header else b"")
        return ["--teacher", str(world.teacher), "--data", str(file)]

    return make


def good(*more: str) -> Callable[[World, Path], list[str]]:
    """Good teacher and data with these arguments."""
    return lambda world, folder: ["--teacher", str(world.teacher), "--data", str(world.reviews), *more]


def jsonl(world: World, folder: Path) -> list[str]:
    """JSON Lines whose third line is broken."""
    file = folder / "rows.jsonl"
    file.write_text('{"text": "a", "label": "bad"}\n{"text": "b", "label": "good"}\n{"text": "c", "label\n', "utf-8")
    return ["--teacher", str(world.teacher), "--data", str(file)]


def two_files(train: list[str], test: list[str]) -> Callable[[World, Path], list[str]]:
    """A training file and a test file."""

    def make(world: World, folder: Path) -> list[str]:
        for name, rows in (("train", train), ("test", test)):
            (folder / f"{name}.csv").write_text("\n".join([HEADER, *rows]), "utf-8")
        files = ["--data", str(folder / "train.csv"), "--set", f"data.test={folder / 'test.csv'}"]
        return ["--teacher", str(world.teacher), *files]

    return make


def numbers(values: list[float | None]) -> Callable[[World, Path], list[str]]:
    """Labels that are numbers, in JSON Lines."""

    def make(world: World, folder: Path) -> list[str]:
        file = folder / "rows.jsonl"
        lines = [json.dumps({"text": f"film {row}", "label": value}) for row, value in enumerate(values)]
        file.write_text("\n".join(lines), "utf-8")
        return ["--teacher", str(world.teacher), "--data", str(file)]

    return make


def corrupt_image(world: World, folder: Path) -> list[str]:
    """A picture that is no picture."""
    shutil.copytree(world.pictures, folder / "pictures")
    (folder / "pictures/vertical/000.png").write_bytes(b"no picture")
    return ["--teacher", str(world.viewer), "--data", str(folder / "pictures")]


def changed_teacher(change: Callable[[Path], None]) -> Callable[[World, Path], list[str]]:
    """A copy of the text teacher after a change."""

    def make(world: World, folder: Path) -> list[str]:
        shutil.copytree(world.teacher, folder / "teacher")
        change(folder / "teacher")
        return ["--teacher", str(folder / "teacher"), "--data", str(world.reviews)]

    return make


def relabel(teacher: Path, *names: str) -> None:
    """Give a teacher other label names."""
    config = json.loads((teacher / "config.json").read_text("utf-8"))
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    (teacher / "config.json").write_text(json.dumps(config), "utf-8")


def not_a_number(teacher: Path) -> None:
    """Fill the teacher's head with NaN."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(teacher)
    model.classifier.weight.data.fill_(float("nan"))
    model.save_pretrained(teacher)


def multiple_choice(teacher: Path) -> None:
    """Give the teacher the head of another task."""
    config = transformers.AutoConfig.from_pretrained(teacher)
    transformers.BertForMultipleChoice(config).save_pretrained(teacher)


CASES = [
    Case("unknown key", good("--set", "distil.epochs=3"), ("unknown recipe key 'distil'", "distill")),
    Case("wrong type", good("--set", "distill.batch_size=many"), ("'distill.batch_size' is 'many'", "integer")),
    Case(
        "weight that teaches the opposite",
        good("--set", "distill.losses=[{name: kl, weight: -1}]"),
        ("the weight of 'kl' is -1", "0 or more"),
    ),
    Case("alpha above 1", good("--set", "distill.alpha=1.5"), ("distill.alpha is 1.5", "shares from 0 to 1")),
    Case(
        "temperature that falls below 0",
        good("--set", "distill.temperature={linear: [4, -4]}"),
        ("distill.temperature is {'linear': [4, -4]}", "above 0"),
    ),
    Case("layers misspelled where none are read", good("--method", "dkd", "--set", "distill.layers=fist"), ("layers is 'fist'",)),
    Case(
        "numbers for classes",
        good("--set", "distill.losses=[bounded_regression]"),
        ("'bounded_regression' reads labels as numbers", "ce"),
    ),
    Case(
        "gradient of answers to words",
        good("--task", "token-classification", "--set", "distill.losses=[kl, jacobian]"),
        ("'jacobian' is of one answer for each row", "take the loss kl"),
    ),
    Case(
        "uncertainty of numbers",
        good("--task", "regression", "--set", "distill.rows.focus=teacher_uncertainty"),
        ("asks how unsure the teacher is", "student_loss"),
    ),
    Case(
        "an architecture for words",
        good("--task", "token-classification", "--student", "bilstm"),
        ("student.architecture is 'bilstm'", "not their words or places", "leave student.architecture out"),
    ),
    Case(
        "pictures for a teacher of texts",
        lambda world, folder: ["--teacher", str(world.teacher), "--data", str(world.pictures)],
        ("holds images, and the teacher reads texts", "give another source, or another teacher"),
    ),
    Case(
        "pictures by their length",
        lambda w, f: [
            *("--teacher", str(w.viewer), "--data", str(w.pictures)),
            *("--set", "distill.rows.order=curriculum", "--set", "distill.rows.difficulty=length"),
        ],
        ("rows.difficulty: length needs the length of every row, and images have none", "set rows.difficulty: teacher"),
    ),
    Case("table of losses", good("--set", "distill.losses={head: [kl, ce]}"), ("distill.losses.head is ['kl', 'ce']", "a list")),
    Case("ratio above", good("--ratio", "0.99"), ("0.99", "at most 0.95")),
    Case("ratio between", good("--ratio", "0.05"), ("'student.ratio' is 0.05", "0 (same architecture) or 0.10 to 0.95")),
    Case("two faults", good("--ratio", "7", "--set", "seeed=1"), ("2 faults", "'seeed'", "seed", "'student.ratio' is 7")),
    Case("unknown method", good("--method", "tinybrt"), ("tinybrt", "did you mean 'tinybert'?")),
    Case("unknown loss", good("--set", "distill.losses=[kll]"), ("kll", "did you mean 'kl'?")),
    Case("unknown option of a loss", good("--set", "distill.losses=[{name: kl, heat: 3}]"), ("heat", "kl")),
    Case("unknown part of the loss table", good("--set", "distill.losses={spine: {type: mse}}"), ("spine", "backbone")),
    Case("missing file", lambda w, f: ["--teacher", str(w.teacher), "--data", str(f / "none.csv")], ("none.csv does not exist",)),
    Case("missing unlabelled file", good("--unlabelled", "none.txt"), ("none.txt does not exist",)),
    Case("empty file", csv(header=""), ("rows.csv", "empty")),
    Case("header alone", csv(), ("rows.csv", "row")),
    Case("broken line of CSV", csv(*ROWS[:9], 'an "open,quote,and,more,bad'), ("rows.csv", "line 11")),
    Case("broken line of JSON", jsonl, ("rows.jsonl", "line 3")),
    Case("wrong encoding", csv("une soirée gâchée,bad", *ROWS, encoding="latin-1"), ("rows.csv", "UTF-8")),
    Case("missing column", csv("a,1.5,2.5", "b,0.5,1.5", header="text,stars,price"), ("label", "'stars'")),
    Case(
        "ambiguous column",
        csv(*(f"{row},a film" for row in ROWS), header="first,label,second"),
        ("'first'", "'second'", "data.columns"),
    ),
    Case("column that is not there", good("--set", "data.columns.text=body"), ("'body'", "'text'")),
    Case("one class", csv(*(f"film {row},good" for row in range(40))), ("'good'", "two labels")),
    Case("label in test alone", two_files(ROWS, [*ROWS[:4], "a film,odd"]), ("test split", "'odd'")),
    Case("labels that are missing", numbers([0.0, 1.0, None, float("nan")] * 10), ("no label", "row 3")),
    Case("labels that are infinite", numbers([0.0, 1.0, float("inf")] * 10), ("infinite", "row 3")),
    Case("texts that are empty", csv(*(f'"  ",{("good", "bad")[row % 2]}' for row in range(40))), ("text", "empty")),
    Case("too few rows", csv("a film,good", "a book,bad"), ("rows",)),
    Case("corrupt image", corrupt_image, ("000.png", "skip_corrupt")),
    Case(
        "teacher that is missing",
        lambda w, f: ["--teacher", "./nowhere", "--data", str(w.reviews)],
        ("./nowhere does not exist",),
    ),
    Case("teacher without config", changed_teacher(lambda t: (t / "config.json").unlink()), ("config.json",)),
    Case(
        "teacher with a broken config", changed_teacher(lambda t: (t / "config.json").write_text("{") and None), ("config.json",)
    ),
    Case("teacher without weights", changed_teacher(lambda t: (t / "model.safetensors").unlink()), ("safetensors",)),
    Case(
        "teacher with broken weights",
        changed_teacher(lambda t: (t / "model.safetensors").write_bytes(b"\0" * 99) and None),
        ("weights", "cannot be read"),
    ),
    Case("teacher for another task", changed_teacher(multiple_choice), ("BertForMultipleChoice",)),
    Case("teacher for images", lambda w, f: ["--teacher", str(w.viewer), "--data", str(w.reviews)], ("image",)),
    Case("teacher for texts", lambda w, f: ["--teacher", str(w.teacher), "--data", str(w.pictures)], ("pictures",)),
    Case("teacher with other labels", changed_teacher(lambda t: relabel(t, "no", "yes")), ("'no'", "'good'")),
    Case("teacher with NaN", changed_teacher(not_a_number), ("NaN",)),
    Case("student that is missing", good("--student", "./nowhere"), ("nowhere",)),
    Case("student that no network is called", good("--student", "lstm"), ("the student lstm", "bilstm")),
    Case("student for images", good("--student", "cnn"), ("a cnn reads images", "bilstm")),
    Case("new head under finetune never", changed_teacher(multiple_choice), ("BertForMultipleChoice",)),
    Case("max_tokens too small", good("--set", "data.max_tokens=2"), ("max_tokens",)),
    Case("layers that do not exist", good("--method", "tinybert", "--set", "distill.layers=[[9, 9]]"), ("9",)),
]


def run_cli(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    monkeypatch.setattr("sys.argv", ["potstill", "distill", *arguments])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(
    case: Case, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = case.make(world, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    tiny = ["--epochs", "1", "--quantize", "none", "--set", "data.augment=none", "--set", "precision=fp32", "-o", "out"]
    code, out, err = run_cli([*given, *tiny], monkeypatch, capsys)
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert len(told) == 1, err
    message = err[err.index("error: ") :]
    assert "What to do: " in message or "Accepted: " in message
    for word in case.words:
        assert word in message
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not (tmp_path / "out/student").exists()


@pytest.mark.parametrize("student", ["./nowhere", "lstm", "cnn"])
def test_a_student_that_cannot_be_is_refused_before_the_teacher_answers(
    student: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli([*good()(world, tmp_path), "--student", student], monkeypatch, capsys)
    assert code == 2
    assert "error: " in err
    assert "read, split and encode the rows" not in err
    assert not (tmp_path / "out/student").exists()


def test_faults_of_the_recipe_are_found_before_anything_is_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("openvino", "nncf"):
        monkeypatch.setitem(sys.modules, name, None)
    faults = ["--method", "tinybrt", "--set", "distill.losses=[kll, {name: kl, heat: 3}, 7]", "--quantize", "openvino"]
    code, _, err = run_cli([*good()(world, tmp_path), *faults], monkeypatch, capsys)
    assert code == 2
    for word in ("2 faults", "'tinybert'", "'kll'"):  # seen without a library of models
        assert word in err
    assert not (tmp_path / "out").exists()
    faults = ["--set", "distill.losses=[{name: kl, heat: 3}, 7]", "--quantize", "openvino"]
    code, _, err = run_cli([*good()(world, tmp_path), *faults], monkeypatch, capsys)
    assert code == 2
    for word in ("3 faults", "'heat'", "holds 7", "pip install 'potstill[openvino]'"):
        assert word in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("place", "word"), [("file", "is a file"), ("full", "holds files"), ("other", "another recipe")])
def test_an_output_folder_of_something_else_is_left_alone(
    place: str, word: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine", "utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine", "utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/recipe.yaml").write_text("teacher: {model: t}\ndata: {source: other.csv}\n", "utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = run_cli([*good()(world, tmp_path), "-o", str(tmp_path / place)], monkeypatch, capsys)
    assert code == 2
    assert word in err
    assert "What to do: " in err
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_did_nothing_yet_does_not_keep_its_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped path must not make the corrected command ask for --overwrite."""
    out = tmp_path / "out"
    given = good()(world, tmp_path)
    code, _, err = run_cli([*given, "--data", "mistyped.jsonl", "-o", str(out)], monkeypatch, capsys)
    assert code == 2
    assert "mistyped.jsonl does not exist" in err
    assert not out.exists()
    code, _, err = run_cli([*given, "--set", "data.columns={text: absent}", "-o", str(out)], monkeypatch, capsys)
    assert code == 2
    assert (out / "recipe.yaml").is_file()
    code, _, err = run_cli([*given, "--set", "data.columns={text: missing}", "-o", str(out)], monkeypatch, capsys)
    assert code == 2
    assert "another recipe" not in err
    assert "missing" in err


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error (os error 28)")])
def test_a_full_disk_is_told_and_the_run_goes_on_later(
    fault: Exception, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("potstill.stages.ask.write_cache", full)
    out = tmp_path / "out"
    caching = ["--set", "distill.cache=always", "--set", "data.augment=none", "-o", str(out)]
    code, _, err = run_cli([*good()(world, tmp_path), *caching], monkeypatch, capsys)
    assert code == 2
    assert "the disk is full" in err
    assert "run the same command again" in err
    assert (out / "work/data/stage.json").is_file()


def test_an_interruption_keeps_what_is_finished(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("potstill.stages.ask.write_cache", interrupted)
    out = tmp_path / "out"
    caching = ["--set", "distill.cache=always", "--set", "data.augment=none", "-o", str(out)]
    code, _, err = run_cli([*good()(world, tmp_path), *caching], monkeypatch, capsys)
    assert code == 130
    assert "run the same command again" in err
    assert (out / "work/data/stage.json").is_file()


def test_a_corrupt_image_is_skipped_on_request(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("potstill.students.make.cut_student", stop)
    skipping = ["--set", "data.skip_corrupt=true", "--epochs", "1", "-o", str(tmp_path / "out")]
    code, _, err = run_cli([*corrupt_image(world, tmp_path), *skipping], monkeypatch, capsys)
    assert code == 130
    assert "000.png" in "".join(err.split())
    assert json.loads((tmp_path / "out/work/data/facts.json").read_text("utf-8"))["rows"]["train"] > 0
