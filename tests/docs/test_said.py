"""What the pages name exists: commands and flags, recipe keys, names to import, links, figures."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from potstill.cli import app
from potstill.recipe import make_recipe, recipe_schema

ROOT = Path(__file__).parents[2]
FRONT = [ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = FRONT + sorted((ROOT / "docs").glob("*.md"))
USED = [page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")]  # these two also speak of what was
OTHERS = {"data.load", "evaluate.quality.predict", "data.documents"}  # functions of the package, a figure in metrics.json
OTHERS |= {"potstill.labels", "potstill.precision", "potstill.model_type"}  # keys in an ONNX file
CLI = typer.main.get_command(app)


def named(pages: list[Path]) -> Any:
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


def code_of(text: str) -> list[str]:
    """Lines of code blocks, and what stands between backticks."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(.*)$", prose, re.MULTILINE)
    return [line for block in fenced for line in block.splitlines()] + indented + re.findall(r"`([^`\n]+)`", prose)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@named(USED)
def test_commands_and_flags_exist(page: Path) -> None:
    for line in code_of(page.read_text("utf-8")):
        for command, rest in re.findall(r"^(?:\$ |\S*/)?potstill ([a-z][\w-]*)((?: [^|;#]*)?)", line.strip()):
            assert command in CLI.commands, line
            known = {flag for one in CLI.commands[command].params for flag in (*one.opts, *one.secondary_opts)} | {"--help"}
            assert set(re.findall(r"(?<=\s)--?[a-zA-Z][\w-]*", rest)) <= known, line


@named(USED)
def test_targets_of_make_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for line in code_of(page.read_text("utf-8")):
        for target in re.findall(r"^make ([\w-]+)", line.strip()):
            assert f"\n{target}:" in makefile, line


@named(USED)
def test_keys_of_the_recipe_exist(page: Path) -> None:
    schema = recipe_schema()
    for code in code_of(page.read_text("utf-8")):
        for path in re.findall(r"(?:^|--set )([a-z]+(?:\.[a-z][a-z_]*)+)(?=$|[=:] ?\S)", code):
            if path.split(".")[0] in schema["properties"] and path not in OTHERS:
                assert exists(schema, schema, path.split(".")), path


def exists(schema: dict[str, Any], part: dict[str, Any], keys: list[str]) -> bool:
    """Whether a path of keys is in the schema; a mapping with free keys accepts any."""
    if not keys:
        return True
    if "$ref" in part:
        return exists(schema, schema["$defs"][part["$ref"].rsplit("/", 1)[-1]], keys)
    if any(exists(schema, each, keys) for each in (*part.get("anyOf", ()), *part.get("allOf", ()))):
        return True
    if keys[0] in part.get("properties", {}):
        return exists(schema, part["properties"][keys[0]], keys[1:])
    return bool(part.get("additionalProperties")) and part.get("type") == "object"


@named(USED)
def test_recipes_are_valid(page: Path) -> None:
    """Those with code of one's own are tested with the code, in `test_own_pages.py`."""
    schema = recipe_schema()
    for block in blocks(page.read_text("utf-8"), "yaml"):
        read = yaml.safe_load(block)
        if isinstance(read, dict) and set(read) <= set(schema["properties"]) and "trust_code" not in read:
            make_recipe({"teacher": "t", "data": "d"} | read)


@named(USED)
def test_python_compiles_and_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    single = [line for line in code_of(text) if re.match(r"from potstill[\w.]* import \w[\w, ]*$", line)]
    for code in (*blocks(text, "python"), *single):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "potstill":
                for name in node.names:
                    assert resolves(f"{node.module}.{name.name}"), f"{node.module}.{name.name}"
    for name in re.findall(r"`(potstill(?:\.[A-Za-z_]\w*)+)", text) + re.findall(r"^::: (\S+)", text, re.MULTILINE):
        assert name in OTHERS or resolves(name), name


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@named(PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text("utf-8")), target


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as the site makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", plain))
    return found


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r": ([\w.-]+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", ["quickstart", "finished-runs", "results", "llm"])
def test_both_languages_have_the_same_sections_and_commands(page: str) -> None:
    english, chinese = ((ROOT / "docs" / f"{page}{end}.md").read_text("utf-8") for end in ("", ".zh"))
    assert len(re.findall(r"^##+ ", english, re.MULTILINE)) == len(re.findall(r"^##+ ", chinese, re.MULTILINE))
    assert commands(english) == commands(chinese)


def test_both_readmes_have_the_same_sections_commands_and_figures() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert len(re.findall(r"^##+ ", english, re.MULTILINE)) == len(re.findall(r"^##+ ", chinese, re.MULTILINE))
    assert commands(english) == commands(chinese)
    assert re.findall(r"^ {4}.*$", english, re.MULTILINE) == re.findall(r"^ {4}.*$", chinese, re.MULTILINE)


def commands(text: str) -> list[str]:
    """The command lines of a page that stand in indented blocks."""
    return [line.strip() for line in re.findall(r"^ {4}(?:potstill|make|python).*$", text, re.MULTILINE)]


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_figures_of_the_readme_stand_in_the_results(readme: str) -> None:
    results = (ROOT / "docs" / "results.md").read_text("utf-8")
    table = (ROOT / readme).read_text("utf-8").split("| | ")[1].split("\n\n")[0]
    rounded = {f"{float(number):.0f}" for number in re.findall(r"(?<![\d.])\d+\.\d+", results)}
    for number in re.findall(r"(?<![\d.,])\d+(?:[.,]\d+)*", table.replace("fp32", "").replace("INT8", "").replace("SST-2", "")):
        assert number in results or number in rounded, number


def test_nothing_names_the_place_where_it_was_written() -> None:
    words = re.compile(r"(?<![\w}])/(?:work|root)/\w|\bissue \d|\bthis session\b|\bthe lead\b|\bworktree\b", re.IGNORECASE)
    folders = ("src", "docs", "tests", "examples", "recipes", "benchmarks")
    files = [
        file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".md", ".yaml", ".j2", ".css")
    ]
    for file in {*FRONT, *files} - {Path(__file__)}:
        assert not (found := words.search(file.read_text("utf-8"))), f"{file}: {found}"
