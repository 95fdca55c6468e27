"""OpenVINO: INT8 calibrated by NNCF, embedding tables compressed too; and fp32 with weights stored in fp16."""

from __future__ import annotations

import logging
from pathlib import Path

from potstill.contracts.way import FP32, INT8, Calibration, Way
from potstill.errors import DataError, MissingExtra
from potstill.exports.openvino import OPENVINO, import_openvino
from potstill.exports.quiet import quiet
from potstill.exports.runtimes import as_array


def quantize_openvino(source: str | Path, target: str | Path, calibration: Calibration) -> Path:
    """Write an INT8 OpenVINO model (``.xml`` and ``.bin``) from an fp32 ONNX file.

    Raises:
        MissingExtra: openvino or nncf is not installed.
        DataError: No calibration batch.
    """
    if not calibration:
        raise DataError("OpenVINO quantization got no calibration batch", "at least one batch of training rows")
    openvino = import_openvino()
    try:
        import nncf
    except ImportError as error:
        raise MissingExtra("INT8 for OpenVINO", "openvino") from error
    model = openvino.Core().read_model(str(source))
    kinds = {port.get_any_name(): port.get_element_type().to_dtype() for port in model.inputs}
    is_transformer = any(operation.get_type_name() == "Softmax" for operation in model.get_ops())
    feeds = [{name: as_array(batch, name, kind) for name, kind in kinds.items()} for batch in calibration]
    with quiet():
        nncf.set_log_level(logging.ERROR)
        quantized = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(feeds),
        )
    openvino.save_model(quantized, str(target), compress_to_fp16=True)
    return Path(target)


def save_openvino(source: str | Path, target: str | Path) -> Path:
    """Write an OpenVINO model from an fp32 ONNX file, weights stored in fp16.

    Raises:
        MissingExtra: openvino is not installed.
    """
    openvino = import_openvino()
    openvino.save_model(openvino.Core().read_model(str(source)), str(target), compress_to_fp16=True)
    return Path(target)


OPENVINO_FP32 = Way(
    "openvino-fp32", "onnx", OPENVINO.name, FP32, "model.openvino.xml",
    lambda source, target, _: save_openvino(source, target), packages=("openvino",), extra="openvino",
)  # fmt: skip
OPENVINO_INT8 = Way(
    "openvino-int8", "onnx", OPENVINO.name, INT8, "model.int8.openvino.xml",
    quantize_openvino, packages=("openvino", "nncf"), extra="openvino",
)  # fmt: skip
