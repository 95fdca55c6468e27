"""The CPU of this machine: ONNX Runtime and OpenVINO, one thread or all cores."""

from __future__ import annotations

from potstill.contracts.target import Target
from potstill.exports.runtimes import num_cores
from potstill.ground.hardware import describe


class Cpu(Target):
    """Always here, so every speed is measured."""

    name = "cpu"
    title = "CPU"
    formats = ("onnx", "openvino")
    ways = (
        "fp32", "fp32-fused", "dynamic", "dynamic-plain", "dynamic-embeddings",
        "static-minmax", "static-percentile", "static-entropy", "openvino-fp32", "openvino-int8",
    )  # fmt: skip
    further_ways = ("fp16",)  # half the file, no faster
    is_timed_by_plans = True

    def absent(self) -> str:
        """Never."""
        return ""

    def thread_counts(self) -> tuple[int, ...]:
        """One, which small models are often fastest with, and all cores."""
        return tuple(sorted({1, num_cores()}))

    def describe(self) -> str:
        """Processor and the instruction sets that matter."""
        return describe().processor


CPU = Cpu()
