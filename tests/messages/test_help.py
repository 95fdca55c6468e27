"""Help pages, lists and shell completion: complete, within 80 columns, true to the recipe and the tables."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys

import pytest

from potstill.cli.application import COMMANDS, app
from potstill.cli.parameters import ARCHITECTURES
from potstill.cli.runs import distill, plan
from potstill.losses import catalogue as losses
from potstill.methods import catalogue as methods
from potstill.recipe import make_recipe
from potstill.recipe.model import ARCHITECTURES as KNOWN

NAMES = [command.__name__ for command in COMMANDS]


def run(*arguments: str, **environment: str) -> str:
    """stdout of the command, in a terminal of 80 columns."""
    done = subprocess.run(
        [sys.executable, "-m", "potstill", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80", **environment},
    )
    return done.stdout


@pytest.mark.parametrize("command", NAMES)
def test_a_help_page_shows_its_flags_and_no_type_in_their_place(command: str) -> None:
    page = run(command, "--help")
    assert "<" not in page[page.index("Options:") :]
    assert max(map(len, page.splitlines())) <= 80
    assert "--json" in page


def test_every_default_that_is_named_is_that_of_the_recipe() -> None:
    page = " ".join(run("distill", "--help").split())
    recipe = make_recipe({"teacher": "t", "data": "d"})
    for flag, value in {
        "--ratio": recipe.student.budget["ratio"],
        "--target": recipe.target,
        "--output": recipe.output,
        "--task": recipe.task,
        "--method": recipe.distill.method,
        "--quantize": recipe.quantize.mode,
        "--baseline": "no-baseline",
        "--seed": recipe.seed,
    }.items():
        assert re.search(rf"{flag}\b(?:(?! --[a-z]).| --no-)*?\[default: {re.escape(str(value))}\]", page), flag
    assert not recipe.baseline


def test_names_that_the_help_lists_are_those_of_the_tables() -> None:
    assert list(ARCHITECTURES) == KNOWN.names()


def test_plan_has_the_flags_of_distill() -> None:
    flags, others = (set(inspect.signature(each).parameters) for each in (distill, plan))
    assert flags - others == {"dry_run"}
    assert others <= flags


def test_both_spellings_of_unlabelled_are_one_flag() -> None:
    page = run("distill", "--help")
    assert "--unlabelled, --unlabeled" in page
    for given in ({"unlabelled": "x.txt"}, {"unlabeled": "x.txt"}, {"data": {"source": "d", "unlabelled": "x.txt"}}):
        assert make_recipe({"teacher": "t", "data": "d"}, given).data.unlabelled == "x.txt"


def test_the_bare_command_prints_its_help() -> None:
    assert run() == run("--help")
    assert run("-V") == run("--version")


@pytest.mark.parametrize(
    ("begun", "offered"),
    [
        ("potstill dist", ["distill"]),
        ("potstill distill --method tiny", ["tinybert"]),
        ("potstill distill --target nv", ["nvidia_gpu"]),
        ("potstill distill --task token", ["token-classification"]),
        ("potstill distill --student bil", ["bilstm"]),
        ("potstill plan --quantize open", ["openvino", "openvino-fp32", "openvino-int8"]),
        ("potstill losses reverse", ["reverse_kl"]),
        ("potstill methods tiny", ["tinybert"]),
    ],
)
def test_shells_complete_commands_and_names(begun: str, offered: list[str]) -> None:
    code = "from potstill.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['potstill']; {code}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "_POTSTILL_COMPLETE": "complete_bash", "COMP_WORDS": begun, "COMP_CWORD": str(begun.count(" "))},
    )
    assert done.stdout.split() == offered, done.stderr


@pytest.mark.parametrize(("command", "names"), [("losses", losses.names()), ("methods", methods.names())])
def test_lists_have_a_line_of_80_columns_for_each_name(command: str, names: tuple[str, ...]) -> None:
    lines = run(command).splitlines()
    assert max(map(len, lines)) <= 80
    listed = [re.match(r"[* ] ([a-z_0-9]+) ", line) for line in lines]
    assert sorted(found[1] for found in listed if found and found[1] in names) == sorted(names)
    assert len(lines) <= len(names) + 15
    rows = json.loads(run(command, "--json"))
    assert {row["name"] for row in rows} == set(names)
    assert any(row["is_default"] for row in rows)


def test_what_is_marked_is_what_the_default_method_minimises() -> None:
    terms = {term.name for phase in methods.example_phases("kd") for term in phase.terms}
    assert set(losses.OF_DEFAULT) <= terms


def test_one_name_shows_everything() -> None:
    page = run("methods", "tinybert")
    for word in ("tinybert_attention", "intermediate", "prediction", "epochs 20.0", "attention:12", "arXiv 1909.10351"):
        assert word in page
    assert "Models between teacher and student" in run("methods", "takd")
    page = run("losses", "kl")
    for word in ("Kullback", "temperature: 2.0", "direction: forward", "Hinton", "response", "logits"):
        assert word in page
    assert json.loads(run("losses", "kl", "--json"))["options"] == {"temperature": 2.0, "direction": "forward"}
    assert json.loads(run("methods", "kd", "--json"))["phases"][0]["learning_rate"] > 0


def test_every_command_takes_json_and_traceback() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert {"as_json", "traceback"} <= set(inspect.signature(command.callback).parameters), command.callback.__name__
