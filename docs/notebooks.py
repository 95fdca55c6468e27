"""Write the notebooks of `examples/notebooks` from their scripts: `python docs/notebooks.py [--check]`.

A script is cut at its lines ``# %%``; a cell that begins with ``# %% [markdown]`` is text.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
MARK, TEXT = "# %%", "[markdown]"


def cells_of(script: str) -> list[tuple[str, str]]:
    """Kind (code or markdown) and content of each cell."""
    found: list[tuple[str, list[str]]] = []
    for line in script.splitlines():
        if line.startswith(MARK):
            found.append(("markdown" if TEXT in line else "code", []))
        elif found:
            found[-1][1].append(line)
    return [(kind, "\n".join(_plain(line, kind) for line in lines).strip("\n")) for kind, lines in found]


def notebook(script: str) -> str:
    """A script as a notebook without outputs."""
    cells = []
    for number, (kind, text) in enumerate(cells_of(script)):
        cell = {"cell_type": kind, "id": hashlib.blake2b(f"{number}".encode(), digest_size=4).hexdigest(), "metadata": {}}
        cell |= {"source": text.splitlines(keepends=True)}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write every notebook, or say which is out of date."""
    stale = []
    for script in sorted(FOLDER.glob("*.py")):
        target, text = script.with_suffix(".ipynb"), notebook(script.read_text("utf-8"))
        if target.is_file() and target.read_text("utf-8") == text:
            continue
        stale.append(target.name)
        if "--check" not in sys.argv:
            target.write_text(text, "utf-8")
    if stale and "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}; run python docs/notebooks.py", file=sys.stderr)
        return 1
    return 0


def _plain(line: str, kind: str) -> str:
    if kind != "markdown":
        return line
    return line[2:] if line.startswith("# ") else line.removeprefix("#")


if __name__ == "__main__":
    sys.exit(main())
