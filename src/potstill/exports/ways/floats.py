"""Floating point: the exported file itself, the same with fused operators, and weights in half precision."""

from __future__ import annotations

from pathlib import Path

import onnx

from potstill.contracts.way import FP16, FP32, Way
from potstill.exports.onnx import ONNX, read_metadata, set_metadata
from potstill.exports.ways.fuse import fuse


def convert_fp16(source: str | Path, target: str | Path) -> Path:
    """Write an fp16 version of an fp32 file, half its size and no faster on a CPU; inputs and logits stay fp32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    del converted.graph.value_info[:]
    set_metadata(converted, read_metadata(source) | {"potstill.precision": FP16.name})
    onnx.save(converted, str(target))
    return Path(target)


FP32_FILE = Way("fp32", ONNX.name, ONNX.name, FP32, "model.onnx", lambda source, _, __: source)
FP32_FUSED = Way(
    "fp32-fused", ONNX.name, ONNX.name, FP32, "model.fused.onnx",
    lambda source, target, rows: fuse(source, target, rows=rows, fuse_embeddings=True),
)  # fmt: skip
FP16_FILE = Way("fp16", ONNX.name, ONNX.name, FP16, "model.fp16.onnx", lambda source, target, _: convert_fp16(source, target))
