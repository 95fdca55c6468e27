"""Draw the rooms of the source from its imports: docs/rooms.svg.

python docs/rooms.py           # draw it
python docs/rooms.py --check   # exit code 1 where the picture is out of date

A box is a folder (or a file that stands alone) of src/potstill with its number of files and lines. An arrow leads from a room to
a room that imports it; arrows that follow from others are left out. Imports inside functions count, those for the type checker
alone do not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from pathlib import Path

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "potstill"
PICTURE = DOCS / "rooms.svg"
GROUND = ("errors", "ground", "contracts")  # what every room may import: drawn as the floor, without arrows
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 44, 40, 34, 16


def main() -> int:
    """Draw or check the picture."""
    drawn = picture(*read_rooms())
    if "--check" in sys.argv[1:]:
        is_current = PICTURE.is_file() and PICTURE.read_text("utf-8") == drawn
        print("" if is_current else "docs/rooms.svg is out of date; run python docs/rooms.py", end="" if is_current else "\n")
        return 0 if is_current else 1
    PICTURE.write_text(drawn, "utf-8")
    return 0


def read_rooms() -> tuple[dict[str, tuple[int, int]], dict[str, set[str]]]:
    """Room → (files, lines), and room → the rooms that it imports."""
    sizes: dict[str, tuple[int, int]] = {}
    imports: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room.startswith("__"):
            continue
        text = path.read_text("utf-8")
        files, lines = sizes.get(room, (0, 0))
        sizes[room] = files + 1, lines + len(text.splitlines())
        imports.setdefault(room, set()).update(_imported(ast.parse(text)))
    return sizes, {room: (found & set(sizes)) - {room} for room, found in imports.items()}


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.ImportFrom) and node.module:
        parts = node.module.split(".")
        if parts[0] == "potstill":
            yield from parts[1:2] or (alias.name for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imported(child)


def direct(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports that do not follow from others."""
    reach: dict[str, set[str]] = {}

    def reached(room: str) -> set[str]:
        if room not in reach:
            reach[room] = set()  # a circle, which the tests refuse, must not hang the picture
            reach[room] = imports[room] | {far for near in imports[room] for far in reached(near)}
        return reach[room]

    return {room: near - {far for other in near for far in reached(other)} for room, near in imports.items()}


def layers(imports: dict[str, set[str]]) -> list[list[str]]:
    """Rooms in layers, each room one above the first that imports it, near to what it imports."""
    importers = {room: [other for other, near in imports.items() if room in near] for room in imports}
    height: dict[str, int] = {}

    def high(room: str) -> int:
        if room not in height:
            height[room] = 0
            height[room] = 1 + max((high(other) for other in importers[room]), default=-1)
        return height[room]

    found: list[list[str]] = [[] for _ in range(1 + max(map(high, imports)))]
    for room in imports:
        found[-1 - height[room]].append(room)
    for upper, layer in pairwise(found):
        layer.sort(key=lambda room, upper=upper: _place(imports[room], upper))  # type: ignore[misc]
    return found


def _place(near: set[str], upper: list[str]) -> float:
    """The mean place in the layer above of what a room imports."""
    places = [upper.index(room) for room in near if room in upper]
    return sum(places) / max(1, len(places))


def picture(sizes: dict[str, tuple[int, int]], imports: dict[str, set[str]]) -> str:
    """The drawing as SVG: the ground at the top, below it a row for each step away from it."""
    above = {room: near - set(GROUND) for room, near in imports.items() if room not in GROUND}
    placed = layers(above)
    widest = max(len(GROUND), *(len(layer) for layer in placed))
    width = 2 * MARGIN + widest * (WIDTH + GAP_X) - GAP_X
    share = (width - 2 * MARGIN - (len(GROUND) - 1) * GAP_X) // len(GROUND)
    where = {
        room: (
            round(width / 2 + (x - len(layer) / 2) * (WIDTH + GAP_X) + GAP_X / 2),
            MARGIN + (y + 1) * (HEIGHT + GAP_Y),
        )
        for y, layer in enumerate(placed)
        for x, room in enumerate(layer)
    }
    boxes = [_box(room, sizes[room], *at, WIDTH) for room, at in where.items()]
    boxes += [_box(room, sizes[room], MARGIN + n * (share + GAP_X), MARGIN, share) for n, room in enumerate(GROUND)]
    arrows = [_arrow(where[near], where[room]) for room, nears in direct(above).items() for near in sorted(nears)]
    height = 2 * MARGIN + (len(placed) + 1) * (HEIGHT + GAP_Y) - GAP_Y
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
            "<style>rect{fill:#eef3f8;stroke:#5b7083}text{fill:#14202b}.size{font-size:10px;fill:#51606d}"
            "path{fill:none;stroke:#8a9aa8;stroke-width:1.2}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 8 4 0 8z" style="fill:#8a9aa8;stroke:none"/></marker></defs>',
            f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
            *arrows,
            *boxes,
            "</svg>",
            "",
        ]
    )


def _box(room: str, size: tuple[int, int], x: int, y: int, width: int) -> str:
    files, lines = size
    middle = x + width // 2
    counts = f"{files} files, {lines:,} lines" if files > 1 else f"{lines:,} lines"
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{middle}" y="{y + 20}" text-anchor="middle">{escape(room)}</text>'
        f'<text x="{middle}" y="{y + 35}" text-anchor="middle" class="size">{counts}</text>'
    )


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    x0, y0, x1, y1 = start[0] + WIDTH // 2, start[1] + HEIGHT, end[0] + WIDTH // 2, end[1]
    bend = max(18, (y1 - y0) // 2)
    return f'<path d="M{x0} {y0} C{x0} {y0 + bend} {x1} {y1 - bend} {x1} {y1}" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    raise SystemExit(main())
