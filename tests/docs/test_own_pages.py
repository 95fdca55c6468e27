"""The pages on losses and methods of one's own run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from potstill.methods import catalogue as methods
from potstill.planning.check import check_recipe
from potstill.recipe import make_recipe

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"own-loss.md": "my_losses", "own-method.md": "my_methods"}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks(page, "python")
    space: dict[str, object] = {}
    for block in code:
        exec(compile(block, page, "exec"), space)
    shown = capsys.readouterr().out.strip().splitlines()
    assert shown
    module = PAGES[page]
    (tmp_path / f"{module}.py").write_text(code[0], "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    recipes = [yaml.safe_load(block) for block in blocks(page, "yaml")]
    assert recipes
    try:
        for recipe in recipes:
            made = make_recipe({"teacher": {"model": "t"}, "data": {"source": "d"}} | recipe)
            check_recipe(made)
            assert methods.example_phases(made.distill.method)
    finally:
        sys.modules.pop(module, None)


def test_what_is_said_of_the_terms_is_so(capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, object] = {}
    for block in blocks("own-loss.md", "python")[:2]:
        exec(compile(block, "own-loss.md", "exec"), space)
    assert capsys.readouterr().out.strip() == "['sharpened', 'sharper', 'ce']"
