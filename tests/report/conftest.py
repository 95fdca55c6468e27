"""A run's figures as the report gets them, made up but whole."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from potstill.report.metrics import Metrics


def _latency(median: float) -> dict[str, float]:
    return {"p50": median, "p95": 1.2 * median, "p99": 1.5 * median}


def _thumbnail() -> str:
    file = io.BytesIO()
    Image.new("L", (8, 8), 128).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def metrics() -> Metrics:
    names = [f"class {number}" for number in range(40)]
    uniform = [[0.25] * 4 for _ in range(4)]
    return Metrics(
        task="text-classification",
        metric="accuracy",
        teacher="models/teacher",
        created="2026-01-02T03:04:05",
        command="potstill distill --teacher models/teacher --data rows.csv",
        ratio={"asked": 0.9, "achieved": 0.898},
        retention=0.98,
        gap_closed=0.6,
        agreement=0.97,
        wdsr=0.975,
        mean_kl_nats=0.08,
        models={
            "teacher": {
                "quality": {"accuracy": 0.95, "macro_f1": 0.94},
                "parameters": 1_000_000,
                "bytes": 4_000_000,
                "flops": 5_000_000,
                "ece": 0.02,
                "latency_ms": {
                    "pytorch-fp32": {"1": _latency(4.0), "32": _latency(40.0)},
                    "onnxruntime-fp32": {"1": _latency(2.0)},
                },
            },
            "baseline": {"quality": {"accuracy": 0.9}, "parameters": 102_000, "bytes": 410_000},
            "student": {
                "quality": {"accuracy": 0.931},
                "parameters": 102_000,
                "bytes": 410_000,
                "latency_ms": {"onnxruntime-fp32": {"1": _latency(0.4), "32": _latency(4.0)}},
                "throughput": {"onnxruntime-fp32": {"1": 2500.0}},
            },
            "student-int8": {
                "quality": {"accuracy": 0.93},
                "parameters": 102_000,
                "bytes": 100_000,
                "retention": 0.979,
                "agreement": 0.968,
                "latency_ms": {"onnxruntime-int8": {"1": _latency(0.2), "32": _latency(2.0)}},
            },
        },
        confidence={"retention": {"low": 0.96, "high": 0.99}, "student.accuracy": {"low": 0.92, "high": 0.94}},
        quantization={
            "chosen": "int8-dynamic",
            "reason": "the fastest within the limit",
            "max_drop": 0.01,
            "candidates": [{"name": "int8-dynamic", "metric": 0.93, "p50_ms": 0.2, "accepted": True}, {"name": "openvino-int8"}],
        },
        plan={"teacher": {"layers": 4}, "student": {"layers": 2}, "layers_kept": [2, 4], "notes": ["cut by importance"]},
        layers={
            "teacher_layers": ["1", "2"],
            "student_layers": ["1"],
            "cka": [[0.9], [0.6]],
            "attention": [{"teacher_layer": 2, "student_layer": 1, "jsd": 0.2, "teacher_map": uniform, "student_map": uniform}],
        },
        per_class=[{"label": name, "rows": 9, "recall": {"teacher": 0.95, "student": 0.9}} for name in names],
        worst_examples=[
            {"row_id": 1, "text": "a dull film", "label": "bad", "teacher_probability": 0.9, "student_probability": 0.1},
            {"row_id": 2, "image_png_base64": _thumbnail(), "label": "bad"},
        ],
        history={"distill": [{"step": 10, "values": {"loss": 1.0}}, {"step": 20, "values": {"loss": 0.5, "eval_accuracy": 0.9}}]},
        precision={
            "teach": {"computed_in": "fp32"},
            "distill": {
                "computed_in": "bf16",
                "step_fp32_ms": 12.0,
                "step_bf16_ms": 5.0,
                "rows": 48,
                "largest_difference": 0.061,
                "mean_difference": 0.007,
                "mean_kl_nats": 0.0002,
                "same_decisions": 0.979,
            },
        },
        calibration={
            "teacher": [{"lower": 0.9, "upper": 1, "confidence": 0.95, "accuracy": 0.9, "rows": 9}, {"lower": 0, "upper": 0.1}]
        },
        energy={"reason": "no counter can be read"},
        data={"source": "rows.csv", "rows": {"train": 900, "test": 360}, "notes": ["validation was carved out"]},
        machine={"cpu": "a processor", "cores": 2, "memory_bytes": 8_000_000_000, "threads": 1},
        versions={"torch": "2.13.0"},
        seeds={"all": 0},
        stages={"teach": 40.0, "distill": 20.0},
        files={"student": "student", "onnx": "export/model.onnx", "onnx-int8": "export/model.int8.onnx"},
    )
