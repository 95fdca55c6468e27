"""INT8 weights and activations whose scales are fixed beforehand from calibration rows."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import onnx

from potstill.contracts.way import INT8, Calibration, Way
from potstill.errors import DataError, RecipeError
from potstill.exports.onnx import ONNX, read_metadata
from potstill.exports.quiet import quiet
from potstill.exports.runtimes import as_array
from potstill.exports.ways.dynamic import finish_int8, has_int8_dot_product, int8_share, prepared

CALIBRATIONS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
DENSE_OPERATORS = ["MatMul", "Gemm"]
CONVOLUTION_OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "Relu", "Clip"]


def quantize_static(
    source: str | Path,
    target: str | Path,
    calibration: Calibration,
    *,
    method: str = "minmax",
) -> Path:
    """Write an INT8 version of an fp32 file with fixed activation scales (QDQ form).

    Args:
        method: ``"minmax"`` (widest range seen), ``"entropy"`` (range that loses least information) or
            ``"percentile"`` (99.999 % of the values seen).

    Raises:
        RecipeError: Another method.
        DataError: No calibration batch.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    if method not in CALIBRATIONS:
        raise RecipeError(f"calibration method {method!r} does not exist", ", ".join(CALIBRATIONS))
    if not calibration:
        raise DataError("static quantization got no calibration batch", "at least one batch of training rows")
    metadata = read_metadata(source)
    with prepared(source, fused=False) as ready, quiet():
        convolutional = any(node.op_type == "Conv" for node in onnx.load(ready).graph.node[:40])
        quantize(
            ready,
            str(target),
            calibration_reader(ready, calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=CONVOLUTION_OPERATORS if convolutional else DENSE_OPERATORS,
            per_channel=True,
            reduce_range=not has_int8_dot_product(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, CALIBRATIONS[method]),
            extra_options={
                "DefaultTensorType": onnx.TensorProto.FLOAT,
                "MatMulConstBOnly": True,
                "CalibStridedMinMax": 1,  # one batch at a time, because batches differ in length
            },
        )
    return finish_int8(target, metadata)


def calibration_reader(path: str | Path, calibration: Calibration) -> Any:
    """ONNX Runtime's reader over batches, holding only what the graph takes."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kinds = {entry.name: "float32" if "float" in entry.type else "int64" for entry in session.get_inputs()}

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.set_range(0, len(calibration))

        def __len__(self) -> int:
            return len(calibration)

        def set_range(self, start_index: int, end_index: int) -> None:
            chosen = calibration[start_index:end_index]
            self.rows = ({name: as_array(batch, name, kind) for name, kind in kinds.items()} for batch in chosen)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rows, None)

    return Reader()


MINMAX, ENTROPY, PERCENTILE = (
    Way(
        f"static-{method}", ONNX.name, ONNX.name, INT8, f"model.int8.{method}.onnx",
        functools.partial(quantize_static, method=method), reached=int8_share,
    )
    for method in CALIBRATIONS
)  # fmt: skip
