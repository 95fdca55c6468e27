"""Fewer, larger operators before quantization: at batch 1 a small model's time is mostly the number of its operators."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx

from potstill.compress.quantize.quiet import quiet
from potstill.export.onnx import read_metadata, set_metadata

logger = logging.getLogger(__name__)

CONTRIBUTED = "com.microsoft"  # domain of ONNX Runtime's own operators
GRAPH_TYPES = {"vit": "vit", "deit": "vit", "swin": "swin"}
CONVOLUTIONAL = frozenset({"resnet", "convnext", "mobilenet_v1", "mobilenet_v2", "regnet"})


def fuse(source: str | Path, target: str | Path, *, fuse_embeddings: bool = False) -> Path:
    """Fuse attention, GELU and normalisation into ONNX Runtime's own operators, offline.

    The file then runs in ONNX Runtime only. A graph in which nothing is recognised is written as it is.

    Args:
        source: A file from `export_onnx`, in fp32.
        target: The file to write.
        fuse_embeddings: Also fuse the embedding tables and their normalisation into one operator, which is faster, but
            quantizes the tables with one scale each.
    """
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    metadata = read_metadata(source)
    kind = metadata.get("potstill.model_type", "")
    if kind in CONVOLUTIONAL:
        onnx.save(onnx.load(str(source)), str(target))
        return Path(target)
    graph_type = GRAPH_TYPES.get(kind, "bert")
    options = FusionOptions(graph_type)
    options.enable_embed_layer_norm = fuse_embeddings
    with quiet():
        fused = optimizer.optimize_model(
            str(source),
            graph_type,
            num_heads=int(metadata.get("potstill.num_attention_heads", 0)),
            hidden_size=int(metadata.get("potstill.hidden_size", 0)),
            opt_level=0,
            optimization_options=options,
        )
    counts = {name: count for name, count in fused.get_fused_operator_statistics().items() if count}
    logger.debug("fused %s", counts)
    model = fused.model
    if not any(entry.domain == CONTRIBUTED for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(CONTRIBUTED, 1))
    set_metadata(model, metadata | {"potstill.fused": "1" if counts else "0"})
    onnx.save(model, str(target))
    return Path(target)
