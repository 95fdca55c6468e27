"""Slips that need no model are answered before any library of models is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "datasets", "onnxruntime", "pyarrow")
ASK = f"""
import sys
from potstill.cli import main
sys.argv = ["potstill", *sys.argv[1:]]
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print("code", code, [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what looks like a model, data, a run, and things that are none of these."""
    folder = tmp_path_factory.mktemp("slips")
    for name in ("bert", "done/student", "done/teacher", "done/work", "foreign", "empty"):
        (folder / name).mkdir(parents=True)
    for model in ("bert", "done/student", "done/teacher"):
        (folder / model / "config.json").write_text('{"model_type": "bert"}', "utf-8")
        (folder / model / "model.safetensors").write_bytes(b"")
    (folder / "reviews.csv").write_text("text,label\nfine,good\npoor,bad\n", "utf-8")
    (folder / "notes.docx").write_bytes(b"-")
    (folder / "done/recipe.yaml").write_text("teacher: {model: ./other}\ndata: {source: other.csv}\n", "utf-8")
    (folder / "foreign/letter.txt").write_text("mine", "utf-8")
    return folder


def ask(arguments: list[str], folder: Path) -> tuple[str, str, str]:
    """stdout, stderr, and what the command says at its end: exit code and heavy libraries."""
    done = subprocess.run([sys.executable, "-c", ASK, *arguments], capture_output=True, text=True, cwd=folder, check=False)
    *lines, last = done.stderr.strip().splitlines()
    return done.stdout, "\n".join(lines), last


GOOD = ["--teacher", "bert", "--data", "reviews.csv"]
SLIPS = [
    (["distill", "--teacher", "./brt", "--data", "reviews.csv"], ["./brt does not exist", "did you mean bert?"]),
    (["distill", "--teacher", "bert", "--data", "review.csv"], ["review.csv does not exist", "did you mean reviews.csv?"]),
    (["distill", "--teacher", "./brt", "--data", "no.csv"], ["2 faults", "./brt", "no.csv"]),
    (["distill", "--teacher", "done", "--data", "reviews.csv"], ["done holds models", "done/student or done/teacher"]),
    (["distill", "--teacher", "reviews.csv", "--data", "bert"], ["reviews.csv is a file", "bert is the folder of a model"]),
    (["distill", "--teacher", "empty", "--data", "reviews.csv"], ["no config.json", "nothing"]),
    (["distill", "--teacher", "bert", "--data", "done"], ["done is the folder of a run"]),
    (["distill", "--teacher", "bert", "--data", "empty"], ["empty is empty"]),
    (["distill", "--teacher", "bert", "--data", "notes.docx"], ["notes.docx", ".csv"]),
    (["distill", *GOOD, "--unlabelled", "./more.csv"], ["more.csv does not exist"]),
    (["distill", *GOOD, "--set", "data.test=tests.csv"], ["tests.csv does not exist"]),
    (["distill", *GOOD, "--method", "tinybrt"], ["method 'tinybrt'", "did you mean 'tinybert'?"]),
    (["distill", *GOOD, "--set", "distill.losses=[kll]"], ["loss 'kll'", "did you mean 'kl'?"]),
    (["distill", *GOOD, "--set", "distill.losses=[{name: dist2, weight: 1}]"], ["loss 'dist2'", "did you mean 'dist'?"]),
    (["distill", *GOOD, "--task", "ner"], ["'task' is 'ner'", "did you mean 'token-classification'?"]),
    (["distill", *GOOD, "--target", "gpu"], ["did you mean 'nvidia_gpu'?"]),
    (["distill", *GOOD, "--quantize", "8bit"], ["did you mean 'int8'?"]),
    (["distill", *GOOD, "--student", "lstm"], ["the student lstm", "did you mean bilstm?"]),
    (["distill", *GOOD, "--student", "./small"], ["the student ./small does not exist"]),
    (["distill", *GOOD, "--ratio", "90"], ["'student.ratio'", "did you mean 0.9?"]),
    (["distill", *GOOD, "--set", "batch_size=8"], ["did you mean distill.batch_size or teacher.batch_size?"]),
    (["distill", *GOOD, "--set", "max_drop=0.1"], ["did you mean quantize.max_drop?"]),
    (["distill", *GOOD, "--set", "lr=1e-4"], ["did you mean learning_rate?"]),
    (["distill", *GOOD, "-o", "foreign"], ["foreign holds files that are no run", "-o"]),
    (["distill", *GOOD, "-o", "reviews.csv"], ["reviews.csv is a file", "-o"]),
    (["distill", *GOOD, "-o", "done"], ["another recipe", "teacher.model"]),
    (["distill", *GOOD, "--dry-run", "-o", "foreign"], ["foreign holds files that are no run"]),
    (["plan", "--teacher", "./brt", "--data", "reviews.csv"], ["did you mean bert?"]),
    (["plan", *GOOD, "--method", "tinybrt"], ["did you mean 'tinybert'?"]),
    (["distill", "recipes.yaml"], ["'recipes.yaml' is not a file"]),
    (["distil"], ["distil", "distill"]),
    (["distill", "--teachr", "x"], ["--teachr", "--teacher"]),
    (["evaluate", "nowhere"], ["nowhere holds no finished run"]),
    (["evaluate", "done/student"], ["give the folder of the run", "done"]),
    (["report", "bert"], ["bert holds no finished run"]),
    (["methods", "tinybrt"], ["did you mean 'tinybert'?"]),
    (["losses", "kll"], ["did you mean 'kl'?"]),
]


@pytest.mark.parametrize(("arguments", "words"), SLIPS, ids=lambda value: " ".join(value))
def test_slips_are_answered_without_a_library_of_models(arguments: list[str], words: list[str], world: Path) -> None:
    before = sorted(world.rglob("*"))
    out, err, last = ask(arguments, world)
    assert last == "code 2 []", err
    assert out == ""
    for word in words:
        assert word in err
    assert sorted(world.rglob("*")) == before


ANSWERS = [
    ["--help"],
    [],
    ["-V"],
    ["distill", "--help"],
    ["losses"],
    ["methods"],
    ["losses", "--json"],
    ["methods", "--json"],
    ["schema"],
]


@pytest.mark.parametrize("arguments", ANSWERS, ids=" ".join)
def test_what_needs_no_model_is_answered_without_a_library_of_models(arguments: list[str], world: Path) -> None:
    out, _, last = ask(arguments, world)
    assert last == "code 0 []"
    assert out.strip()
    if "--json" in arguments:
        assert json.loads(out)
