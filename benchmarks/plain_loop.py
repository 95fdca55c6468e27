"""Potstill against the loop that most tutorials show, on the same data, epochs, batch size and student.

    python benchmarks/plain_loop.py --run out/quality/sst2-seed0-ratio0.9 --epochs 3
    python benchmarks/plain_loop.py --run out/quality/sst2-seed0-ratio0.9 --epochs 3 --rows 640 --whole

The plain loop pads every row to 512 tokens, asks the teacher live in every epoch, does not bucket, and reads the loss back
in every step. All its steps are of one shape, so by default `--steps` of them are timed, half before and half after
Potstill's side, and their mean is multiplied by the number of steps: the table says so, and gives no accuracy for what was
not trained. `--whole` runs it to the end, which with `--rows` takes minutes, and compares the accuracies. Potstill's side is
always timed whole: tokenising, the teacher's answers, training. Both sides use fp32 and the same threads (OMP_NUM_THREADS).
`--run` names a finished output folder, which gives teacher, cut student and rows.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch.nn import functional

PADDED_TOKENS, TEMPERATURE, ALPHA = 512, 2.0, 0.7


@dataclass
class Figures:
    """One side: seconds on the wall and of the processor, accuracy on the test split, and parts of the wall time."""

    seconds: float
    cpu_seconds: float
    accuracy: float | None = None
    encode_seconds: float = 0.0
    answer_seconds: float = 0.0
    training_seconds: float = 0.0


def main() -> None:
    """Time both sides and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--rows", type=int, help="training rows; all by default")
    parser.add_argument("--steps", type=int, default=6, help="steps of the plain loop that are timed")
    parser.add_argument("--whole", action="store_true", help="run the plain loop to the end")
    arguments = parser.parse_args()
    from potstill.cli import _quiet_libraries
    from potstill.pipeline.reevaluate import open_run

    _quiet_libraries()
    run = open_run(arguments.run)
    loop = PlainLoop(run, arguments)
    loop.take(1)  # the first step allocates
    loop.figures = Figures(0.0, 0.0)
    if arguments.whole:
        loop = PlainLoop(run, arguments)
        loop.take(loop.num_steps)
        loop.figures.accuracy = accuracy(run, loop.student)
        ours = potstill_run(run, arguments)
        plain, how = loop.figures, f"all {loop.num_steps} steps run"
    else:
        half = max(1, arguments.steps // 2)
        loop.take(half)
        ours = potstill_run(run, arguments)
        loop.take(half)
        plain = loop.extrapolated(2 * half)
        how = (
            f"EXTRAPOLATED: {2 * half} steps timed, {loop.figures.seconds / (2 * half):.2f} s each, times {loop.num_steps} steps"
        )
    print_table(plain, ours, how, len(loop.texts), arguments)


def print_table(plain: Figures, ours: Figures, how: str, rows: int, arguments: argparse.Namespace) -> None:
    """Both sides, what of it was extrapolated, and the ratio."""
    print(f"\n{rows} rows, {arguments.epochs} epochs, batch size {arguments.batch_size}, {torch.get_num_threads()} thread(s)")
    print(f"{'side':<12} {'seconds':>10} {'CPU s':>10} {'test accuracy':>14}")
    shown = f"{plain.accuracy:.4f}" if plain.accuracy is not None else "–"
    print(f"{'plain loop':<12} {plain.seconds:>10.1f} {plain.cpu_seconds:>10.1f} {shown:>14}   ({how})")
    parts = f"tokenising {ours.encode_seconds:.1f}, answers {ours.answer_seconds:.1f}, training {ours.training_seconds:.1f}"
    print(f"{'Potstill':<12} {ours.seconds:>10.1f} {ours.cpu_seconds:>10.1f} {ours.accuracy:>14.4f}   (whole: {parts})")
    print(f"ratio: wall {plain.seconds / ours.seconds:.1f}, CPU {plain.cpu_seconds / ours.cpu_seconds:.1f}")


class PlainLoop:
    """The tutorial's loop over the rows of a run, step by step.

    Args:
        run: A finished run.
        arguments: Rows, epochs, batch size and rate.
    """

    def __init__(self, run: Any, arguments: argparse.Namespace) -> None:
        from potstill.pipeline.student_stages import load_student

        torch.manual_seed(0)
        self.student, self.tokenizer = load_student(run, run.folder / "work/student/model")
        self.teacher, self.teacher_tokenizer = run.teacher.model, run.teacher.processor
        split = run.split("train")
        count = min(arguments.rows or len(split), len(split))
        self.texts, self.labels = list(split["text"])[:count], torch.tensor(split["label"][:count])
        self.batch_size = arguments.batch_size
        self.num_steps = -(-count // self.batch_size) * arguments.epochs
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=arguments.learning_rate)
        self.batches = self._batches()
        self.figures = Figures(0.0, 0.0)
        self.running = 0.0
        self.student.train()

    def _batches(self) -> Iterator[np.ndarray]:
        chance = np.random.default_rng(0)
        while True:
            shuffled = chance.permutation(len(self.texts))
            for start in range(0, len(shuffled), self.batch_size):
                yield shuffled[start : start + self.batch_size]

    def take(self, steps: int) -> None:
        """Train for so many steps; their time is added to the figures."""
        wall, cpu = time.perf_counter(), time.process_time()
        asked = {"padding": "max_length", "truncation": True, "max_length": PADDED_TOKENS, "return_tensors": "pt"}
        for _ in range(steps):
            rows = next(self.batches)
            batch = [self.texts[row] for row in rows]
            with torch.no_grad():
                target = self.teacher(**self.teacher_tokenizer(batch, **asked)).logits
            logits = self.student(**self.tokenizer(batch, **asked)).logits
            soft = functional.kl_div(
                functional.log_softmax(logits / TEMPERATURE, -1),
                functional.softmax(target / TEMPERATURE, -1),
                reduction="batchmean",
            )
            loss = ALPHA * TEMPERATURE**2 * soft + (1 - ALPHA) * functional.cross_entropy(logits, self.labels[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.running += loss.item()
        self.figures.seconds += time.perf_counter() - wall
        self.figures.cpu_seconds += time.process_time() - cpu

    def extrapolated(self, steps: int) -> Figures:
        """The figures of all steps, of the mean of those that were timed."""
        factor = self.num_steps / steps
        return Figures(self.figures.seconds * factor, self.figures.cpu_seconds * factor)


def potstill_run(run: Any, arguments: argparse.Namespace) -> Figures:
    """The same work done by Potstill: tokenise, ask the teacher once, train in buckets."""
    from potstill.pipeline.student_stages import load_student
    from potstill.teacher.cache import CachedTeacher, write_cache
    from potstill.teacher.live import LiveTeacher
    from potstill.training.stages import StageSettings, train_stage

    student, tokenizer = load_student(run, run.folder / "work/student/model")
    split = run.split("train")
    if arguments.rows and arguments.rows < len(split):
        split = split.select(range(arguments.rows))
    teacher_collator = run.task.collator(run.teacher.processor)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        began, cpu = time.perf_counter(), time.process_time()
        rows = run.task.encode(split, tokenizer, folder / "student")
        theirs = run.task.encode(split, run.teacher.processor, folder / "teacher")
        encoded = time.perf_counter()
        write_cache(LiveTeacher(run.teacher.model, dtype="float32"), theirs, teacher_collator, folder / "cache")
        answered = time.perf_counter()
        train_stage(
            student,
            rows=rows,
            collator=run.task.collator(tokenizer),
            folder=folder / "training",
            terms=[{"name": "kl", "weight": ALPHA, "temperature": TEMPERATURE}, {"name": "ce", "weight": 1 - ALPHA}],
            teacher=CachedTeacher.open(folder / "cache"),
            settings=StageSettings(
                epochs=arguments.epochs,
                batch_size=arguments.batch_size,
                learning_rate=arguments.learning_rate,
                select="last",
                precision="fp32",
            ),
        )
        ended, cpu = time.perf_counter(), time.process_time() - cpu
    return Figures(ended - began, cpu, accuracy(run, student), encoded - began, answered - encoded, ended - answered)


def accuracy(run: Any, student: Any) -> float:
    """On the test split."""
    from potstill.evaluate.quality import predict
    from potstill.export.runtimes import TorchRunner
    from potstill.pipeline.student_stages import load_student

    _, tokenizer = load_student(run, run.folder / "work/student/model")
    found = predict(TorchRunner(student), run.student_rows("test"), run.task.collator(tokenizer))
    return float(run.task.quality(found.logits, found.labels)["accuracy"])


if __name__ == "__main__":
    main()
