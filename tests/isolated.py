"""Programs in a process that cannot import named packages, to show what runs without them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_GUARD = """
import sys
class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked)
for name in {names!r}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{{name}} can be imported")
"""


def run_without(names: Sequence[str], program: str, folder: Path) -> str:
    """What a program prints that runs in a folder, in an interpreter of its own where these packages cannot be imported.

    Raises:
        AssertionError: It fails.
    """
    guarded = _GUARD.format(names=tuple(names)) + program
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    known |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / ".modules")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", guarded],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=known,
        timeout=240,
    )
    assert done.returncode == 0, f"{program}\n{done.stderr[-3000:]}"
    return done.stdout
