"""Embedding tables as INT8 with one scale per row.

Runtimes quantize a table with a single scale, which the largest entry of any row dictates to all of them; here
every row has its own, for 4 more bytes a row. Law: no entry moves by more than half of its row's scale.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MIN_ROWS = 64  # smaller tables (token types) are not worth two more operators
LEVELS = 127


def quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize each row symmetrically.

    Formula: scale = max |row| / 127; entries = round(row / scale).

    Args:
        table: [V, D] floating point.

    Returns:
        Entries [V, D] int8 and scales [V, 1] float32; the scale of an all-zero row is 0.
    """
    table = np.asarray(table, dtype=np.float32)
    scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(LEVELS)
    safe = np.where(scales > 0, scales, np.float32(1))
    entries = np.clip(np.rint(table / safe), -LEVELS, LEVELS).astype(np.int8)
    return entries, scales.astype(np.float32)


def quantize_embeddings(model: onnx.ModelProto, *, min_rows: int = MIN_ROWS) -> tuple[str, ...]:
    """Replace every table that is only looked up in by INT8 rows and their scales, in place.

    ``Gather(table, ids)`` becomes ``Cast(Gather(entries, ids)) * Gather(scales, ids)``.
    """
    graph = model.graph
    tables = dict(_tables(graph, min_rows))
    for name, table in tables.items():
        entries, scales = quantize_rows(numpy_helper.to_array(table))
        graph.initializer.remove(table)
        graph.initializer.append(numpy_helper.from_array(entries, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scale"))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += _lookup(node) if node.op_type == "Gather" and node.input[0] in tables else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    return tuple(tables)


def _tables(graph: onnx.GraphProto, min_rows: int) -> Iterator[tuple[str, onnx.TensorProto]]:
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, position))
    outputs = {output.name for output in graph.output}
    for table in graph.initializer:
        is_matrix = table.data_type == TensorProto.FLOAT and len(table.dims) == 2 and table.dims[0] >= min_rows
        uses = readers.get(table.name, [])
        if is_matrix and uses and table.name not in outputs and all(_looks_up_rows(node, at) for node, at in uses):
            yield table.name, table


def _looks_up_rows(node: onnx.NodeProto, position: int) -> bool:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return node.op_type == "Gather" and position == 0 and axis == 0


def _lookup(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    table, ids, result = node.input[0], node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [f"{table}.int8", ids], [f"{result}.int8"], name=f"{result}.rows", axis=0),
        helper.make_node("Gather", [f"{table}.scale", ids], [f"{result}.scale"], name=f"{result}.scales", axis=0),
        helper.make_node("Cast", [f"{result}.int8"], [f"{result}.float"], name=f"{result}.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{result}.float", f"{result}.scale"], [result], name=f"{result}.mul"),
    ]
