"""Heat maps: CKA between layers, attention of one example."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from potstill.report.metrics import AttentionDifference, LayerSimilarity
from potstill.report.names import layer_name
from potstill.report.plots.canvas import WIDTH, Canvas, shorten, text_width
from potstill.report.words import Said, same, say

Matrix = Sequence[Sequence[float | None]]
MOST_TOKENS = 40


def similarity_map(layers: LayerSimilarity) -> Markup:
    """CKA [teacher layers, student layers] with the value in every cell; the first teacher layer is on top."""
    rows, columns = len(layers.cka), len(layers.cka[0])
    left = 40 + min(120, max(text_width(layer_name(name).en) for name in layers.teacher_layers or ["00"]))
    cell_width = min(74.0, (WIDTH - left - 10) / columns)
    cell_height = 26 if rows > 8 else 32
    canvas = Canvas(WIDTH, rows * cell_height + 62)
    for row, values in enumerate(layers.cka):
        canvas.text(
            left - 8, 8 + (row + 0.5) * cell_height + 4, _name(layers.teacher_layers, row, 110), anchor="end", style="name"
        )
        for column, value in enumerate(values):
            _cell(canvas, left + column * cell_width, 8 + row * cell_height, cell_width, cell_height, value)
    for column in range(columns):
        name = _name(layers.student_layers, column, cell_width)
        canvas.text(left + (column + 0.5) * cell_width, 8 + rows * cell_height + 16, name, anchor="middle", style="tick")
    middle = left + columns * cell_width / 2
    canvas.text(middle, 8 + rows * cell_height + 40, say("axis_student_layer"), anchor="middle", style="axis-title")
    canvas.text(14, 8 + rows * cell_height / 2, say("axis_teacher_layer"), anchor="middle", style="axis-title", turn=True)
    return canvas.finish(say("chart_cka"))


def attention_maps(pair: AttentionDifference) -> Markup:
    """Teacher's map, student's map and their absolute difference, side by side, on one scale."""
    side, gap = 138, 10
    canvas = Canvas(3 * side + 2 * gap + 6, side + 26)
    teacher, student = _cropped(pair.teacher_map), _cropped(pair.student_map)
    gaps = [[abs((a or 0) - (b or 0)) for a, b in zip(*rows)] for rows in zip(teacher, student)]
    highest = max([value or 0 for matrix in (teacher, student) for row in matrix for value in row] or [1]) or 1
    maps: tuple[tuple[str, Matrix], ...] = (("map_teacher", teacher), ("map_student", student), ("map_difference", gaps))
    for at, (key, matrix) in enumerate(maps):
        left = 3 + at * (side + gap)
        _map(canvas, matrix, pair.tokens, left, side, highest, "m-baseline" if key == "map_difference" else "heat")
        canvas.text(left + side / 2, side + 20, say(key), anchor="middle", style="axis-title")
    return canvas.finish(say("chart_maps", teacher=pair.teacher_layer, student=pair.student_layer))


def _map(canvas: Canvas, matrix: Matrix, tokens: Sequence[str], left: float, side: float, highest: float, style: str) -> None:
    cell = side / max(len(matrix), 1)
    canvas.bar(left, 2, side, side, "frame")
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            hint = (
                f"{tokens[row]} → {tokens[column]}: {value or 0:.3f}" if max(row, column) < len(tokens) else f"{value or 0:.3f}"
            )
            shade = (value or 0) / highest
            canvas.bar(left + column * cell, 2 + row * cell, cell, cell, style, opacity=shade, hint=hint, round_by=0)


def _cell(canvas: Canvas, x: float, y: float, width: float, height: float, value: float | None) -> None:
    canvas.bar(x + 1, y + 1, width - 2, height - 2, "heat", opacity=max(value or 0, 0.02))
    strong = " strong" if (value or 0) > 0.62 else ""
    if width >= 26:
        shown = "–" if value is None else f"{value:.2f}"
        canvas.text(x + width / 2, y + height / 2 + 4, Said(shown, shown), anchor="middle", style=f"cell{strong}")


def _name(names: Sequence[str], at: int, width: float) -> Said:
    found = layer_name(names[at]) if at < len(names) else same(at + 1)
    return Said(*(shorten(text, width) for text in found))


def _cropped(matrix: Matrix) -> list[list[float | None]]:
    return [list(row[:MOST_TOKENS]) for row in matrix[:MOST_TOKENS]]
