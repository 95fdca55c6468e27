"""Cost of a training step: with cached teacher logits against the bare student step, and with a live teacher against the bare
student step and the teacher's bare forward pass in inference mode, on the same batches.

    python benchmarks/step.py [--rounds 12] [--steps 40] [--layers 1 2 4] [--teachers cached live] [--json]

The bare step is forward, cross-entropy with the labels, backward, clipping, AdamW. Both sides run interleaved in one process,
round by round, on the same padded batches; the ratio is of the medians over rounds, the CPU ratio of the least CPU times, which
other work on the machine disturbs less; the paired one is the median over rounds of the ratio of CPU times. Target: ≤ 1.05.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads on a busy machine falsify both sides

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import ElectraConfig, ElectraForSequenceClassification, PrinterCallback, TrainerCallback, TrainingArguments

from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import TeacherSource
from potstill.knowledge.live import LiveTeacher
from potstill.knowledge.responses.dense import DenseLogits
from potstill.training.trainer import DistillationTrainer

BATCH, CLASSES, VOCABULARY = 32, 2, 6000
TOKENS = (4, 8, 12, 16, 20, 24, 28, 32, 40, 52)  # padded lengths as batches of SST-2 sentences have them


TEACHER_LAYERS = 6


def student(layers: int, intermediate: int = 384) -> ElectraForSequenceClassification:
    """A tenth of MiniLM-L6: whole teacher width, factorised embedding."""
    torch.manual_seed(0)
    config = ElectraConfig(
        vocab_size=VOCABULARY,
        embedding_size=64,
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=intermediate,
        num_labels=CLASSES,
    )
    return ElectraForSequenceClassification(config)


def live_teacher() -> LiveTeacher:
    """Of the blocks of MiniLM-L6, in 32 bits."""
    return LiveTeacher(student(TEACHER_LAYERS, intermediate=1536), dtype="float32")


class Batches(Dataset[Any]):
    """Ready batches: a row is a batch, so that neither side pays for reading."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.batches = [self._make(i, TOKENS[i % len(TOKENS)], generator) for i in range(count)]

    def _make(self, number: int, tokens: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            "input_ids": torch.randint(5, VOCABULARY, (BATCH, tokens), generator=generator),
            "attention_mask": torch.ones(BATCH, tokens, dtype=torch.long),
            "labels": torch.randint(CLASSES, (BATCH,), generator=generator),
            "row_id": torch.arange(number * BATCH, (number + 1) * BATCH),
        }

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.batches[index]


class CachedLogits:
    """Logits in memory by row id, as the knowledge cache gives them."""

    provides = frozenset({"logits"})
    fingerprint = "benchmark"

    def __init__(self, num_rows: int) -> None:
        self.logits = np.random.default_rng(0).normal(size=(num_rows, CLASSES)).astype(np.float32)

    def signal(self, batch: Mapping[str, Any], needs: Collection[str]) -> TeacherSignal:
        """Rows found by id."""
        return TeacherSignal(DenseLogits(torch.from_numpy(self.logits[batch["row_id"].numpy()])))


class Clock(TrainerCallback):
    """Marks the time at the begin and the end of training, in which start and finish are not counted."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


def bare_side(layers: int, batches: Batches, teacher: LiveTeacher | None) -> Callable[[], tuple[float, float]]:
    """The bare loop; returns a function that runs one round and gives wall and CPU seconds."""
    model = student(layers).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in batches.batches:
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            if teacher is not None:
                with torch.inference_mode():
                    teacher.model(**inputs)
            torch.nn.functional.cross_entropy(model(**inputs).logits, batch["labels"]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - wall, time.process_time() - cpu

    return run


def trainer_side(layers: int, batches: Batches, folder: str, source: TeacherSource) -> Callable[[], tuple[float, float]]:
    """DistillationTrainer with the teacher's logits, KL and cross-entropy."""
    model, clock = student(layers), Clock()
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=1,
        num_train_epochs=1,
        learning_rate=1e-4,
        save_strategy="no",
        logging_steps=50,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )

    def run() -> tuple[float, float]:
        trainer = DistillationTrainer(
            model,
            arguments,
            teacher=source,
            losses=[{"name": "kl", "weight": 0.7}, {"name": "ce", "weight": 0.3}],
            train_dataset=batches,
            data_collator=lambda rows: rows[0],
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return clock.wall, clock.cpu

    return run


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--teachers", choices=["cached", "live"], nargs="+", default=["cached", "live"])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = []
    if not asked.json:
        heads = ("teacher", "layers", "bare ms", "trainer ms", "wall ratio", "CPU ratio", "paired")
        print(" ".join(f"{head:>10}" for head in heads), flush=True)
    for teacher in asked.teachers:
        for layers in asked.layers:
            row = measure(teacher, layers, asked.rounds, asked.steps)
            rows.append(row)
            if not asked.json:
                print(
                    " ".join(f"{value:>10.3f}" if isinstance(value, float) else f"{value:>10}" for value in row.values()),
                    flush=True,
                )
    if asked.json:
        print(json.dumps(rows, indent=2))


def measure(teacher: str, layers: int, rounds: int, steps: int) -> dict[str, float | str]:
    """Interleaved rounds of both sides."""
    batches, live = Batches(steps), live_teacher() if teacher == "live" else None
    source: TeacherSource = live or CachedLogits(len(batches) * BATCH)
    with tempfile.TemporaryDirectory() as folder:
        sides = {"bare": bare_side(layers, batches, live), "trainer": trainer_side(layers, batches, folder, source)}
        for run in sides.values():
            run()
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for turn in range(rounds):
            for name in sorted(sides, reverse=bool(turn % 2)):
                times[name].append(sides[name]())
    wall = {name: statistics.median(pair[0] for pair in pairs) / steps for name, pairs in times.items()}
    cpu = {name: min(pair[1] for pair in pairs) / steps for name, pairs in times.items()}
    return {
        "teacher": teacher,
        "layers": layers,
        "bare_ms": 1e3 * wall["bare"],
        "trainer_ms": 1e3 * wall["trainer"],
        "wall_ratio": wall["trainer"] / wall["bare"],
        "cpu_ratio": cpu["trainer"] / cpu["bare"],
        "paired": statistics.median(ours[1] / bare[1] for bare, ours in zip(times["bare"], times["trainer"])),
    }


if __name__ == "__main__":
    main()
