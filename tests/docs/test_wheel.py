"""The wheel holds every file that is read at run time, and runs from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "potstill"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_is_whole_and_runs(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, copy], check=True)
    (wheel,) = tmp_path.glob("potstill-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for file in SOURCE.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert f"potstill/{file.relative_to(SOURCE).as_posix()}" in held, file
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "potstill", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=empty, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = [sys.executable, "-c", "import potstill; print(potstill.__file__)"]
    assert str(tmp_path / "site") in subprocess.run(where, capture_output=True, text=True, check=True, env=environment).stdout
    assert "0.1.0" in run("--version")
    assert "tinybert" in run("methods")
    run("init", "text-classification")
    assert "teacher" in (empty / "recipe.yaml").read_text("utf-8")
    run("demo", "-o", "out")
    assert "<svg" in (empty / "out" / "report" / "index.html").read_text("utf-8")
