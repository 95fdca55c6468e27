"""Command `init`: a commented recipe of every task, out of the recipe model, which every later command reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from potstill.cli import app
from potstill.contracts.task import TASKS, TOKEN_TASKS
from potstill.errors import RecipeError
from potstill.planning.recipe_file import DATA, TEACHER, commented_recipe
from potstill.recipe import Recipe, make_recipe

ALL = [*TASKS, *TOKEN_TASKS]


@pytest.mark.parametrize("task", ALL)
def test_the_recipe_is_the_one_of_the_defaults(task: str) -> None:
    read = make_recipe(yaml.safe_load(commented_recipe(task, teacher="./my teacher: v1", data="rows #2.csv")))
    plain = make_recipe({"task": task, "teacher": "./my teacher: v1", "data": "rows #2.csv"})
    ratio = None if task in TOKEN_TASKS else 0.9  # written out, as the budget that a recipe without one has
    assert read.model_dump() == {**plain.model_dump(), "student": {**plain.student.model_dump(), "ratio": ratio}}


@pytest.mark.parametrize("task", ALL)
def test_every_key_has_its_meaning_above_it(task: str) -> None:
    lines = commented_recipe(task).splitlines()
    keys = [number for number, line in enumerate(lines) if line.strip() and not line.strip().startswith("#")]
    sections = {*Recipe.model_fields, "language"}
    for number in keys:
        if lines[number].strip(": ") in sections:
            continue
        assert lines[number - 1].strip().startswith("# "), lines[number]
        assert len(lines[number - 1].strip()) > 10


def test_keys_are_those_that_the_rows_have() -> None:
    assert "max_tokens" in commented_recipe("text-classification")
    assert "max_tokens" not in commented_recipe("image-classification")
    assert "skip_corrupt" in commented_recipe("image-classification")
    assert "loss_on" in commented_recipe("causal-lm")
    assert f"model: {TEACHER}" in commented_recipe("regression")
    assert f"source: {DATA}" in commented_recipe("regression")


def test_a_task_that_does_not_exist_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no task 'text-clasification'.*did you mean 'text-classification'"):
        commented_recipe("text-clasification")


def test_the_file_is_written_once_and_read_by_plan(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    result = CliRunner().invoke(
        app, ["init", "regression", "-o", str(file), "--teacher", "./bert", "--data", "rows.csv", "--json"]
    )
    assert json.loads(result.stdout) == {"file": str(file), "task": "regression"}
    before = file.read_text("utf-8")
    again = CliRunner().invoke(app, ["init", "-o", str(file)])
    assert "is there already" in str(again.exception)
    assert "add --overwrite, or give another name with -o" in str(again.exception)
    assert file.read_text("utf-8") == before
    assert "potstill plan" in CliRunner().invoke(app, ["init", "-o", str(file), "--overwrite"]).stdout
    assert file.read_text("utf-8") == commented_recipe("text-classification")
    plan = CliRunner().invoke(app, ["plan", str(file)])  # the recipe is read; the teacher that stands in it is not there
    assert TEACHER in str(plan.exception)
    assert CliRunner().invoke(app, ["init", "-o", "-"]).stdout == commented_recipe("text-classification")
    missing = CliRunner().invoke(app, ["init", "-o", str(tmp_path / "no" / "r.yaml")])
    assert "mkdir -p" in str(missing.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "nowhere", "--data", "rows.csv"],
        ["predict", "nowhere", "--data", "rows.csv", "-o", "rows.xlsx"],
        ["compare", "nowhere", "elsewhere"],
        ["export", "nowhere", "--to", "int8"],
        ["init", "no-task"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_a_slip_is_answered_before_a_library_of_models_is_imported(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from potstill.cli import app\n"
        f"result = CliRunner().invoke(app, {arguments!r})\n"
        "assert 'Accepted:' in str(result.exception), result.output\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
