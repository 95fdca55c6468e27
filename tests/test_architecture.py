"""The house: imports flow one way between rooms and in no circle, stages know no stage, files stay short."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "potstill"
ORDER = [
    "errors", "ground", "contracts", "recipe", "data", "answers", "models", "modalities", "tasks", "students", "knowledge",
    "losses", "training", "methods", "exports", "targets", "evaluate", "report", "planning", "stages", "console", "flows",
    "demo", "doctor", "cli", "__main__",
]  # fmt: skip
LONGEST_FILE = 450
FILES = sorted(SOURCE.rglob("*.py"))


def _name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


MODULES = {_name(path): path for path in FILES}


@cache
def _imports(module: str) -> frozenset[str]:
    """The modules of Potstill that a module imports, inside functions too; those for the type checker alone do not count."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:  # files of one folder that are copied together
            node.module, node.level = f"{module.rpartition('.')[0]}.{node.module}", 0
    return frozenset(name for name in _named(tree) if name in MODULES and name != module)


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "potstill":
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in MODULES else node.module
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _named(child)


@pytest.mark.parametrize("module", MODULES)
def test_imports_flow_one_way(module: str) -> None:
    room = _room(module)
    if room == "__init__":
        return
    assert room in ORDER, f"{room} is not in the order of the rooms"
    for imported in _imports(module):
        other = _room(imported)
        if other not in (room, "__init__"):
            assert ORDER.index(other) < ORDER.index(room), f"{module} imports {imported}, which lies to its right"


@pytest.mark.parametrize("module", [module for module in MODULES if _room(module) == "stages"])
def test_stages_import_no_stage(module: str) -> None:
    assert not [name for name in _imports(module) if _room(name) == "stages" and name != "potstill.stages"]


def test_no_module_imports_itself_through_others() -> None:
    try:
        tuple(TopologicalSorter({module: _imports(module) - {"potstill"} for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(f"an import circle: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("module", [module for module in MODULES if _room(module) == "contracts"])
def test_contracts_import_the_ground_alone(module: str) -> None:
    assert {_room(name) for name in _imports(module)} <= {"contracts", "ground", "errors", "__init__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("module", [module for module in MODULES if _room(module) == "stages"])
def test_no_stage_imports_a_stage(module: str) -> None:
    assert not {name for name in _imports(module) if _room(name) == "stages" and name != "potstill.stages"}


AXES = {"modality", "kind", "model_type", "runtime", "precision", "method", "structure", "task", "target", "format", "way"}
OWNED = {
    "potstill.modalities:MODALITIES": "modalities",
    "potstill.answers:ANSWERS": "answers",
    "potstill.contracts.task:TASKS": "tasks",
    "potstill.models.families:FAMILIES": "models",
    "potstill.models.families.decoders:DECODERS": "models",
    "potstill.knowledge.responses:RESPONSES": "knowledge",
    "potstill.methods.catalogue:METHODS": "methods",
    "potstill.contracts.format:FORMATS": "exports",
    "potstill.contracts.way:WAYS": "exports",
    "potstill.contracts.target:TARGETS": "targets",
}


@cache
def _owners() -> dict[str, set[str]]:
    """Name of a plug-in → the rooms that may compare with it."""
    owners: dict[str, set[str]] = {}
    for place, room in OWNED.items():
        where, _, table = place.partition(":")
        for name in getattr(importlib.import_module(where), table):
            owners.setdefault(name, set()).add(room)
    for name in ("onnxruntime", "pytorch", "fp32", "fp16", "int8"):
        owners.setdefault(name, set()).add("exports")
    return owners


@pytest.mark.parametrize("module", MODULES)
def test_names_of_plug_ins_are_compared_in_their_own_rooms(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        axis = {getattr(side, "attr", getattr(side, "id", None)) for side in sides} & AXES
        words = [each for side in sides for each in (getattr(side, "elts", None) or [side])]
        names = {each.value for each in words if isinstance(each, ast.Constant) and isinstance(each.value, str)}
        for name in names if axis else ():
            assert _room(module) in _owners().get(name, {_room(module)}), (
                f"{module}:{node.lineno} compares with {name!r}: ask the object"
            )
