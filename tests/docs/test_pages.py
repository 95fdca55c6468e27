"""Pages that follow from the code are up to date; commands and paths that the README names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.zh-CN.md")


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("readme", READMES)
def test_links_of_the_readme_lead_somewhere(readme: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / readme).read_text("utf-8")):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("readme", READMES)
def test_commands_of_the_readme_exist(readme: str) -> None:
    from potstill.cli import app

    text = (ROOT / readme).read_text("utf-8")
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for command in re.findall(r"^\s*potstill (\w+)", text, flags=re.MULTILINE):
        assert command in known, command
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^\s*make (\w+)", text, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile, target


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_ready_recipes_are_valid_and_short(recipe: Path) -> None:
    from potstill.recipe import make_recipe, read_file

    make_recipe(read_file(recipe))
    assert len(recipe.read_text("utf-8").splitlines()) < 20


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_compile(example: Path) -> None:
    compile(example.read_text("utf-8"), str(example), "exec")
