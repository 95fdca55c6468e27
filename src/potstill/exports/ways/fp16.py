"""Half precision weights: half the file, no gain in speed on a CPU."""

from __future__ import annotations

from pathlib import Path

import onnx

from potstill.exports.onnx import read_metadata, set_metadata


def convert_fp16(source: str | Path, target: str | Path) -> Path:
    """Write an fp16 version of an fp32 file; inputs and logits stay fp32.

    Args:
        source: A file from `export_onnx`.
        target: The file to write.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    del converted.graph.value_info[:]
    set_metadata(converted, read_metadata(source) | {"potstill.precision": "fp16"})
    onnx.save(converted, str(target))
    return Path(target)
