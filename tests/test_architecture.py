"""Knowledge flows one way: a room imports the rooms to its left, never those to its right."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "potstill"
ORDER = [
    "errors", "table", "fingerprints", "lock", "disk", "hardware", "devices", "ranks", "cka", "recipe",
    "data", "tasks", "teacher", "student", "losses", "training", "methods",
    "export", "compress", "evaluate", "report", "demo", "doctor", "pipeline", "console", "cli", "__main__",
]  # fmt: skip
# Written out and narrow: (room, what it may import although it stands to the right).
EXCEPTIONS = {("data", "tasks")}  # only the contract of a task


def _room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("potstill."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("potstill.")}
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_flow_one_way(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        return
    assert room in ORDER, f"{room} is not in the order of the rooms"
    for imported in _imports(path):
        if imported == room or (room, imported) in EXCEPTIONS:
            continue
        assert ORDER.index(imported) < ORDER.index(room), f"{path.name} in {room} imports {imported}, which lies to its right"
