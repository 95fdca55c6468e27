"""The notebooks are what their scripts say, and the scripts run from the first cell to the last."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples" / "notebooks").glob("*.py"))


def test_the_notebooks_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "notebooks.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_is_whole(script: Path) -> None:
    document = json.loads(script.with_suffix(".ipynb").read_text("utf-8"))
    assert document["nbformat"] == 4
    assert document["cells"][0]["cell_type"] == "markdown"
    assert "".join(document["cells"][0]["source"]).startswith("# ")
    assert {cell["cell_type"] for cell in document["cells"]} == {"code", "markdown"}


@pytest.mark.parametrize(
    "script",
    [pytest.param(one, marks=pytest.mark.timeout(280)) for one in SCRIPTS],
    ids=lambda one: one.stem,
)
def test_a_script_runs(script: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
