"""INT8 weights and activations whose scales are found at every call; needs no calibration."""

from __future__ import annotations

import contextlib
import functools
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from potstill.contracts.way import INT8, Calibration, Way
from potstill.exports.onnx import ONNX, read_metadata, set_metadata
from potstill.exports.quiet import quiet
from potstill.exports.ways.embeddings import quantize_embeddings
from potstill.exports.ways.fuse import fuse, keep_residuals_apart
from potstill.exports.ways.graph_rewrites import small_products

DENSE_OPERATORS = ["MatMul", "Gemm", "Attention"]


def quantize_dynamic(
    source: str | Path, target: str | Path, rows: Calibration = (), *, fused: bool = True, fuse_embeddings: bool = False
) -> Path:
    """Write an INT8 version of an fp32 file.

    Dense layers get INT8 weights per output channel, but for those that are too small to gain (`small_products`); embedding
    tables get INT8 per row (`quantize_embeddings`).

    Args:
        rows: Batches on which fused operators are checked; see `fuse`.
        fuse_embeddings: Fuse the embedding block too; its tables then have one scale each.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    operators = [*DENSE_OPERATORS, "EmbedLayerNormalization"] if fuse_embeddings else DENSE_OPERATORS
    metadata = read_metadata(source)
    with prepared(source, rows, fused=fused, fuse_embeddings=fuse_embeddings) as ready, quiet():
        quantize(
            ready,
            str(target),
            op_types_to_quantize=operators,
            per_channel=True,
            reduce_range=not has_int8_dot_product(),
            weight_type=QuantType.QInt8,
            nodes_to_exclude=small_products(onnx.load(ready)),
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
    return finish_int8(target, metadata)


@contextlib.contextmanager
def prepared(source: str | Path, rows: Calibration = (), *, fused: bool, fuse_embeddings: bool = False) -> Iterator[str]:
    """Path of a copy that is fused and whose embedding tables are quantized, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="potstill-quantize-") as folder:
        ready = Path(folder) / "prepared.onnx"
        if fused:
            fuse(source, ready, rows=rows, fuse_embeddings=fuse_embeddings)
            model = onnx.load(str(ready))
        else:
            model = onnx.load(str(source))
            keep_residuals_apart(model)
        quantize_embeddings(model)
        del model.graph.value_info[:]
        onnx.save(model, str(ready))
        yield str(ready)


def finish_int8(path: str | Path, metadata: dict[str, str]) -> Path:
    """Put labels and origin back, which the quantizer drops, and name the precision."""
    model = onnx.load(str(path))
    del model.graph.value_info[:]
    set_metadata(model, metadata | {"potstill.precision": INT8.name})
    onnx.save(model, str(path))
    return Path(path)


def has_int8_dot_product() -> bool:
    """Does this CPU multiply INT8 without overflow (VNNI, AMX or ARM dot product)? Others need 7-bit weights."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return True
    words = cpuinfo.read_text(errors="replace").split()
    return not {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}.isdisjoint(words)


def int8_share(path: str | Path) -> float:
    """Share of a file's weights, by number, that are stored in 8 bits."""
    small = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    sizes = [(math.prod(one.dims), one.data_type in small) for one in onnx.load(str(path)).graph.initializer]
    total = sum(size for size, _ in sizes)
    return sum(size for size, is_small in sizes if is_small) / total if total else 0.0


DYNAMIC, DYNAMIC_PLAIN, DYNAMIC_EMBEDDINGS = (
    Way(name, ONNX.name, ONNX.name, INT8, f"model.int8.{file}.onnx", make, reached=int8_share)
    for name, file, make in (
        ("dynamic", "dynamic", quantize_dynamic),
        ("dynamic-plain", "plain", functools.partial(quantize_dynamic, fused=False)),
        ("dynamic-embeddings", "embeddings", functools.partial(quantize_dynamic, fuse_embeddings=True)),
    )
)
