"""Less to compute in a fused graph: tokens that nothing reads, shapes that are known, products too small to quantize.

Law: in fp32 the graph gives the same logits.
"""

# B batch, T tokens, D width

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

ATTENTION = "Attention"
BY_TOKEN = frozenset({"LayerNormalization", "MatMul", "Add", "Sum", "Mul", "Gelu", "BiasGelu", "FastGelu", "Relu", "Tanh", "Erf"})
SMALLEST_PRODUCT = 1 << 14  # numbers of a weight below which quantizing its input takes longer than the product in fp32
SMALL_SHARE = 0.01  # of all numbers of a file, which such weights may be


def compute_read_tokens(model: onnx.ModelProto) -> int:
    """Pick the token that the head reads before the work that is done token by token and not after it, in place.

    A classifier that reads the first token alone leaves the last block's output projection, feed-forward layer and
    normalisations of all other tokens unread; behind the last attention they need not be computed. Only whole stretches that
    lead back to an attention are changed, since there every value is [B, T, D].
    """
    graph = model.graph
    constants = {one.name: len(one.dims) for one in graph.initializer}
    total = 0
    for pick in [node for node in graph.node if _picks_one_token(node, graph)]:
        stretch = _stretch(graph, pick, constants)
        if stretch:
            _move(graph, pick, stretch, constants)
            total += len(stretch)
    return total


def write_known_shapes(model: onnx.ModelProto) -> int:
    """Write `flatten` of the last two axes, which exporters take apart into four operators, as one, in place."""
    graph = model.graph
    made = {output: node for node in graph.node for output in node.output}
    values = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    values |= {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in graph.node if node.op_type == "Constant"}
    ranks = {one.name: len(one.type.tensor_type.shape.dim) for one in onnx.shape_inference.infer_shapes(model).graph.value_info}
    changed = 0
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] not in ranks or not _flattens_end(node, made, values):
            continue
        name = f"{node.output[0]}.shape"
        kept = np.array([0] * (ranks[node.input[0]] - 2) + [-1], dtype=np.int64)  # 0 is "as it was"
        graph.initializer.append(numpy_helper.from_array(kept, name))
        node.input[1] = name
        changed += 1
    if changed:
        _drop_unread(graph)
    return changed


def small_products(model: onnx.ModelProto) -> list[str]:
    """Names of the products that are as fast in fp32, since their weights are small.

    Together they are at most a hundredth of all numbers. A `Gemm` is named as ONNX Runtime's quantizer splits it, too.
    """
    sizes = {one.name: math.prod(one.dims) for one in model.graph.initializer}
    weights = {node.name: sizes.get(node.input[1], 0) for node in model.graph.node if node.op_type in ("MatMul", "Gemm")}
    found, left = [], sum(sizes.values()) * SMALL_SHARE
    for name, size in sorted(weights.items(), key=lambda item: item[1]):
        if 0 < size < min(SMALLEST_PRODUCT, left):
            found += [name, f"{name}_MatMul"]
            left -= size
    return found


def _picks_one_token(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether a node takes one place of axis 1 away: [B, T, D] → [B, D]."""
    if node.op_type != "Gather" or _attribute(node, "axis", 0) != 1:
        return False
    index = next((one for one in graph.initializer if one.name == node.input[1]), None)
    if index is None:
        makers = (one for one in graph.node if one.op_type == "Constant" and one.output[0] == node.input[1])
        index = next((one.attribute[0].t for one in makers), None)
    return index is not None and len(index.dims) == 0


def _stretch(graph: onnx.GraphProto, pick: onnx.NodeProto, constants: Mapping[str, int]) -> list[onnx.NodeProto]:
    """The token-wise nodes between the last attention and `pick` that nothing else reads, last first; none where they do not end
    at attentions and at values that attentions read."""
    made = {output: node for node in graph.node for output in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.output[0])
    attentions = [node for node in graph.node if node.op_type == ATTENTION]
    whole = {name for node in attentions for name in (*node.output, node.input[0])}
    outputs = {one.name for one in graph.output}
    found: list[onnx.NodeProto] = []
    needed, inside = [pick.input[0]], {pick.output[0]}
    while ready := [name for name in needed if name not in whole and readers[name] <= inside]:
        for name in ready:
            node = made.get(name)
            if node is None or name in outputs or not _is_by_token(node, constants):
                return []
            found.append(node)
            inside.add(name)
            needed = list(dict.fromkeys([*(one for one in needed if one != name), *_variables(node, constants)]))
    return found if whole.issuperset(needed) else []


def _is_by_token(node: onnx.NodeProto, constants: Mapping[str, int]) -> bool:
    """Whether a node treats every token alike and by itself; its constants must broadcast over tokens."""
    if node.op_type not in BY_TOKEN or len(node.output) != 1:
        return False
    if node.op_type == "LayerNormalization":
        return _attribute(node, "axis", -1) == -1
    if node.op_type == "MatMul":
        return node.input[0] not in constants and constants.get(node.input[1]) == 2
    return all(constants.get(name, 0) <= 1 for name in node.input)


def _variables(node: onnx.NodeProto, constants: Mapping[str, int]) -> Iterator[str]:
    return (name for name in node.input if name and name not in constants)


def _move(graph: onnx.GraphProto, pick: onnx.NodeProto, stretch: list[onnx.NodeProto], constants: Mapping[str, int]) -> None:
    """Take the token where the stretch begins, and drop the node that took it at the end."""
    inner = {node.output[0] for node in stretch}
    picked: dict[str, str] = {}
    for node in stretch:
        for place, name in enumerate(node.input):
            if name and name not in constants and name not in inner:
                picked.setdefault(name, f"{name}.token")
                node.input[place] = picked[name]
    last = pick.input[0]
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == pick.output[0]:
                node.input[place] = last
    for output in graph.output:
        if output.name == pick.output[0]:
            next(node for node in stretch if node.output[0] == last).output[0] = output.name
    nodes = [node for node in graph.node if node is not pick]
    for name, token in picked.items():
        early = helper.make_node("Gather", [name, pick.input[1]], [token], name=token, axis=1)
        first = next(place for place, node in enumerate(nodes) if token in node.input)
        nodes.insert(first, early)
    del graph.node[:]
    graph.node.extend(nodes)


def _flattens_end(node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], values: Mapping[str, np.ndarray]) -> bool:
    """Whether a reshape's target is `concat(shape(x)[0:-2], [-1])` of its own input."""
    joined = made.get(node.input[1])
    if joined is None or joined.op_type != "Concat" or len(joined.input) != 2:
        return False
    part, end = made.get(joined.input[0]), values.get(joined.input[1])
    if part is None or part.op_type != "Slice" or end is None or end.tolist() != [-1]:
        return False
    shape = made.get(part.input[0])
    bounds = [values.get(name) for name in part.input[1:]]
    if shape is None or shape.op_type != "Shape" or shape.input[0] != node.input[0] or any(one is None for one in bounds):
        return False
    return [one.tolist() for one in bounds if one is not None] in ([[0], [-2]], [[0], [-2], [0]], [[0], [-2], [0], [1]])


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes that nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        kept = [node for node in graph.node if any(output in read for output in node.output)]
        if len(kept) == len(graph.node):
            return
        del graph.node[:]
        graph.node.extend(kept)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), default)
