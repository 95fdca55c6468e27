"""Fewer, larger operators before quantization: at batch 1 a small model's time is mostly the number of its operators."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import numpy as np
import onnx

from potstill.contracts.way import Calibration
from potstill.exports.onnx import ONNX, read_metadata, set_metadata
from potstill.exports.quiet import quiet
from potstill.exports.ways.graph_rewrites import compute_read_tokens, write_known_shapes
from potstill.models.families import family_or_none

logger = logging.getLogger(__name__)

CONTRIBUTED = "com.microsoft"  # domain of ONNX Runtime's own operators
UNKNOWN_GRAPH = "bert"  # what a graph of no family is searched for
CHECKED_BATCHES = 4
LARGEST_DIFFERENCE = 1e-3  # of the largest output


def fuse(source: str | Path, target: str | Path, *, rows: Calibration = (), fuse_embeddings: bool = False) -> Path:
    """Fuse attention and GELU into ONNX Runtime's own operators, offline.

    Residual sums stay outside of normalisation (`keep_residuals_apart`), which is faster; behind the last attention only the
    token that the head reads is computed (`compute_read_tokens`).
    The file then runs in ONNX Runtime only. It is written as it is where nothing is recognised, and where the fused graph
    answers otherwise: ONNX Runtime recognises attention by its operators, and does not look at how its scores are scaled.

    Args:
        rows: Batches on which the fused graph has to answer as the source does; without them a model type of no family is not
            fused.
        fuse_embeddings: Also fuse the embedding tables and their normalisation into one operator, which is faster, but
            quantizes the tables with one scale each.
    """
    metadata = read_metadata(source)
    family = family_or_none(metadata.get("potstill.model_type", ""))
    graph_type = family.fusion if family is not None else UNKNOWN_GRAPH if rows else None
    if graph_type is not None:
        onnx.save(_fused(source, metadata, graph_type, fuse_embeddings=fuse_embeddings), str(target))
        if _answer_alike(source, target, rows):
            return Path(target)
        logger.warning("fused operators change the answers of this model, so it is served without them")
    onnx.save(onnx.load(str(source)), str(target))
    return Path(target)


def _fused(source: str | Path, metadata: dict[str, str], graph_type: str, *, fuse_embeddings: bool) -> onnx.ModelProto:
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions(graph_type)
    options.enable_embed_layer_norm = fuse_embeddings
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = False
    with quiet():
        fused = optimizer.optimize_model(
            str(source),
            graph_type,
            num_heads=int(metadata.get("potstill.num_attention_heads", 0)),
            hidden_size=_attention_width(metadata),
            opt_level=0,
            optimization_options=options,
        )
    counts = {name: count for name, count in fused.get_fused_operator_statistics().items() if count}
    logger.debug("fused %s", counts)
    model: onnx.ModelProto = fused.model
    keep_residuals_apart(model)
    if not any(entry.domain == CONTRIBUTED for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(CONTRIBUTED, 1))
    write_known_shapes(model)
    compute_read_tokens(model)
    set_metadata(model, metadata | {"potstill.fused": "1" if counts else "0"})
    return model


def _answer_alike(first: str | Path, second: str | Path, rows: Calibration) -> bool:
    """Whether two files answer some batches alike, as far as fp32 does."""
    expected, found = (ONNX.open(Path(path), threads=1) for path in (first, second))
    for batch in itertools.islice(rows, CHECKED_BATCHES):
        answers = found.run(batch)
        for name, value in expected.run(batch).items():
            gap = np.abs(answers[name] - value).max()
            if not gap <= LARGEST_DIFFERENCE * (1.0 + np.abs(value).max()):
                return False
    return True


def _attention_width(metadata: dict[str, str]) -> int:
    """Heads × units per head, which is less than the hidden width where heads were cut."""
    heads, units = (int(metadata.get(f"potstill.{name}", 0)) for name in ("num_attention_heads", "head_dim"))
    return heads * units or int(metadata.get("potstill.hidden_size", 0))


def keep_residuals_apart(model: onnx.ModelProto) -> int:
    """Write the sum before each normalisation as `Sum` instead of `Add`, in place.

    ONNX Runtime fuses `Add` and `LayerNormalization` into an operator that takes 40 µs where the two take 5.5 µs
    (24 tokens of width 384, one thread, version 1.31); it leaves `Sum` alone, which computes the same.
    """
    normalised = {node.input[0] for node in model.graph.node if node.op_type == "LayerNormalization"}
    sums = [node for node in model.graph.node if node.op_type == "Add" and node.output[0] in normalised]
    for node in sums:
        node.op_type = "Sum"
    return len(sums)
