"""Potstill against the loop that most tutorials show, on the same data, epochs, batch size and student.

    python benchmarks/plain_loop.py --run out/quality/sst2-seed0-ratio0.9 --epochs 3
    python benchmarks/plain_loop.py --run out/quality/sst2-seed0-ratio0.9 --epochs 3 --accuracy
    python benchmarks/plain_loop.py --teacher ENCODER_FOLDER --data FOLDER --output out/cut --whole --seeds 0 1 2

The plain loop pads every row to 512 tokens, asks the teacher live in every epoch, does not bucket, and reads the loss back
in every step. All its steps are of one shape, so by default `--steps` of them are timed, half before and half after
Potstill's side, and their mean is multiplied by the number of steps: the table says so, and gives no accuracy for what was
not trained. `--whole` runs it to the end, as it is (minutes on a GPU, hours on two cores), and compares the accuracies too.

`--accuracy` gives the plain loop's accuracy without its hours: after the timed steps it trains on exactly the plain loop's
batches (order, labels, live teacher, dropout, optimizer), padded to the longest row of the batch. What is padded is masked, so
this is the same training; that is first checked by comparing the losses of both step by step, without dropout, whose draws depend
on the shape of a batch.

Potstill's side is always timed whole: tokenising, the teacher's answers, training. Both sides use fp32 and the same threads
(OMP_NUM_THREADS), or the GPU where there is one. `--run` names the folder of a run, which gives teacher, cut student and rows;
`--teacher`, `--data` and `--output` make one first (benchmarks/cut_run.py).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch.nn import functional

from cut_run import cut_run, open_cut

PADDED_TOKENS, TEMPERATURE, ALPHA = 512, 2.0, 0.7
CHECKED_STEPS, ROUNDING = 4, 1e-4
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    """Time both sides, once for each seed, and print one table each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--teacher", help="with --data and --output instead of --run: a trained teacher, or an encoder")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--rows", type=int, help="training rows; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=6, help="steps of the plain loop that are timed")
    parser.add_argument(
        "--accuracy", action="store_true", help="train the plain loop's batches to the end, padded to their longest"
    )
    parser.add_argument("--whole", action="store_true", help="run the plain loop to the end, as it is")
    arguments = parser.parse_args()
    from potstill.cli.printing import quiet_libraries

    quiet_libraries()
    if arguments.run is None:
        if arguments.teacher is None or arguments.data is None or arguments.output is None:
            parser.error("give --run, or --teacher, --data and --output")
        run = cut_run(arguments.output, arguments.teacher, arguments.data)
    else:
        run = open_cut(arguments.run)
    run.open(run.teacher).model.to(DEVICE)
    print(f"teacher: {accuracy(run, run.open(run.teacher).model, sees='teacher'):.4f} on test")
    found = [compared(run, arguments, seed) for seed in arguments.seeds]
    if len(found) > 1 and (arguments.whole or arguments.accuracy):
        for name, side in (("plain loop", 0), ("Potstill", 1)):
            values = [figures[side].accuracy for figures in found]
            spread = f"from {min(values):.4f} to {max(values):.4f}"
            print(f"{name}: mean accuracy {np.mean(values):.4f} over {len(values)} seeds, {spread}")


def compared(run: Any, arguments: argparse.Namespace, seed: int) -> tuple[Figures, Figures]:
    """Both sides with one seed, printed."""
    loop = PlainLoop(run, arguments, seed=seed)
    loop.take(1)  # the first step allocates
    if arguments.whole:
        loop = PlainLoop(run, arguments, seed=seed)
        loop.take(loop.num_steps)
        loop.figures.accuracy = accuracy(run, loop.student)
        ours = potstill_run(run, arguments, seed=seed)
        plain, how = loop.figures, f"all {loop.num_steps} steps run"
    else:
        loop.figures = Figures(0.0, 0.0)
        half = max(1, arguments.steps // 2)
        loop.take(half)
        ours = potstill_run(run, arguments, seed=seed)
        loop.take(half)
        plain = loop.extrapolated(2 * half)
        each = loop.figures.seconds / (2 * half)
        how = f"seconds EXTRAPOLATED: {2 * half} steps timed, {each:.2f} s each, times {loop.num_steps} steps"
    if arguments.accuracy:
        print(f"largest relative difference of a loss, padded to 512 against longest: {largest_difference(run, arguments):.1e}")
        narrow = PlainLoop(run, arguments, seed=seed, padding="longest")
        narrow.take(narrow.num_steps)
        plain.accuracy = accuracy(run, narrow.student)
        how += f"; accuracy of all steps on the same batches, padded to their longest, {narrow.figures.cpu_seconds:.0f} CPU s"
    print_table(plain, ours, how, len(loop.texts), arguments, seed)
    return plain, ours


def largest_difference(run: Any, arguments: argparse.Namespace) -> float:
    """Between the losses of a few steps padded to 512 and to the longest row, without dropout; each trains on its own.

    Raises:
        SystemExit: It is more than rounding: padding changes what is learned.
    """
    sides = [PlainLoop(run, arguments, padding=padding, without_dropout=True) for padding in ("max_length", "longest")]
    losses = [np.array([side.take(1) for _ in range(CHECKED_STEPS)]) for side in sides]
    print(
        "losses padded to 512, and to the longest:", *(", ".join(f"{loss:.6f}" for loss in side) for side in losses), sep="\n  "
    )
    largest = float((np.abs(losses[0] - losses[1]) / np.abs(losses[0])).max())
    if largest > ROUNDING:
        raise SystemExit(f"the losses differ by {largest:.1e}, which is more than rounding ({ROUNDING:.0e})")
    return largest


def print_table(plain: Figures, ours: Figures, how: str, rows: int, arguments: argparse.Namespace, seed: int) -> None:
    """Both sides, what of it was extrapolated, and the ratio."""
    place = f"{torch.get_num_threads()} thread(s)" if DEVICE.type == "cpu" else torch.cuda.get_device_name()
    print(f"\n{rows} rows, {arguments.epochs} epochs, batch size {arguments.batch_size}, {place}, seed {seed}")
    print(f"{'side':<12} {'seconds':>10} {'CPU s':>10} {'test accuracy':>14}")
    shown = f"{plain.accuracy:.4f}" if plain.accuracy is not None else "–"
    print(f"{'plain loop':<12} {plain.seconds:>10.1f} {plain.cpu_seconds:>10.1f} {shown:>14}   ({how})")
    parts = f"tokenising {ours.encode_seconds:.1f}, answers {ours.answer_seconds:.1f}, training {ours.training_seconds:.1f}"
    print(f"{'Potstill':<12} {ours.seconds:>10.1f} {ours.cpu_seconds:>10.1f} {ours.accuracy:>14.4f}   (whole: {parts})")
    print(f"ratio: wall {plain.seconds / ours.seconds:.1f}, CPU {plain.cpu_seconds / ours.cpu_seconds:.1f}")


class PlainLoop:
    """The tutorial's loop over the rows of a run, step by step.

    Args:
        run: A run with teacher and cut student.
        arguments: Rows, epochs, batch size and rate.
        seed: Of the order and of dropout.
        padding: "max_length" pads to 512 tokens, as the loop does; "longest" to the longest row of the batch.
        without_dropout: Train without dropout, so that the shape of a batch changes nothing.
    """

    def __init__(
        self,
        run: Any,
        arguments: argparse.Namespace,
        *,
        seed: int = 0,
        padding: str = "max_length",
        without_dropout: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        student, self.tokenizer = cut_of(run).load(without_dropout=without_dropout)
        self.student = student.to(DEVICE).train()
        self.teacher, self.teacher_tokenizer = run.open(run.teacher).model, run.open(run.teacher).processor
        split = run.open(run.rows).split("train")
        count = min(arguments.rows or len(split), len(split))
        self.texts, self.labels = list(split["text"])[:count], torch.tensor(split["label"][:count])
        self.batch_size, self.seed = arguments.batch_size, seed
        self.num_steps = -(-count // self.batch_size) * arguments.epochs
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=arguments.learning_rate)
        self.batches = self._batches()
        self.figures = Figures(0.0, 0.0)
        self.asked = {"padding": padding, "truncation": True, "max_length": PADDED_TOKENS, "return_tensors": "pt"}

    def _batches(self) -> Iterator[np.ndarray]:
        chance = np.random.default_rng(self.seed)
        while True:
            shuffled = chance.permutation(len(self.texts))
            for start in range(0, len(shuffled), self.batch_size):
                yield shuffled[start : start + self.batch_size]

    def take(self, steps: int) -> float:
        """Train for so many steps, whose time is added to the figures; returns their mean loss."""
        wall, cpu, running = time.perf_counter(), time.process_time(), 0.0
        for _ in range(steps):
            rows = next(self.batches)
            batch = [self.texts[row] for row in rows]
            with torch.no_grad():
                target = self.teacher(**self._inputs(self.teacher_tokenizer, batch)).logits
            logits = self.student(**self._inputs(self.tokenizer, batch)).logits
            soft = functional.kl_div(
                functional.log_softmax(logits / TEMPERATURE, -1),
                functional.softmax(target / TEMPERATURE, -1),
                reduction="batchmean",
            )
            hard = functional.cross_entropy(logits, self.labels[rows].to(DEVICE))
            loss = ALPHA * TEMPERATURE**2 * soft + (1 - ALPHA) * hard
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            running += loss.item()
        self.figures.seconds += time.perf_counter() - wall
        self.figures.cpu_seconds += time.process_time() - cpu
        return running / steps

    def _inputs(self, tokenizer: Any, texts: Sequence[str]) -> Any:
        return tokenizer(texts, **self.asked).to(DEVICE)

    def extrapolated(self, steps: int) -> Figures:
        """The figures of all steps, of the mean of those that were timed."""
        factor = self.num_steps / steps
        return Figures(self.figures.seconds * factor, self.figures.cpu_seconds * factor)


def potstill_run(run: Any, arguments: argparse.Namespace, *, seed: int = 0) -> Figures:
    """The same work done by Potstill: tokenise, ask the teacher once, train in buckets."""
    from potstill.knowledge.cache import CachedTeacher, write_cache
    from potstill.knowledge.live import LiveTeacher
    from potstill.training.phase_settings import PhaseSettings
    from potstill.training.phases import train_phase

    student, tokenizer = cut_of(run).load()
    split = run.open(run.rows).split("train")
    if arguments.rows and arguments.rows < len(split):
        split = split.select(range(arguments.rows))
    teacher_collator = run.open(run.rows).task.collator(run.open(run.teacher).processor)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        began, cpu = time.perf_counter(), time.process_time()
        rows = run.open(run.rows).task.encode(split, tokenizer, folder / "student")
        theirs = run.open(run.rows).task.encode(split, run.open(run.teacher).processor, folder / "teacher")
        encoded = time.perf_counter()
        write_cache(LiveTeacher(run.open(run.teacher).model, dtype="float32"), theirs, teacher_collator, folder / "cache")
        answered = time.perf_counter()
        train_phase(
            student,
            rows=rows,
            collator=run.open(run.rows).task.collator(tokenizer),
            folder=folder / "training",
            terms=[{"name": "kl", "weight": ALPHA, "temperature": TEMPERATURE}, {"name": "ce", "weight": 1 - ALPHA}],
            teacher=CachedTeacher.open(folder / "cache"),
            settings=PhaseSettings(
                epochs=arguments.epochs,
                batch_size=arguments.batch_size,
                learning_rate=arguments.learning_rate,
                seed=seed,
                select="last",
                precision="fp32",
            ),
        )
        ended, cpu = time.perf_counter(), time.process_time() - cpu
    return Figures(ended - began, cpu, accuracy(run, student), encoded - began, answered - encoded, ended - answered)


def cut_of(run: Any) -> Any:
    """The cut student of a flow, before any training."""
    return run.open(run.student_versions[0])


def accuracy(run: Any, model: Any, *, sees: str = "student") -> float:
    """Of a model on the test split, in the tokens of teacher or student."""
    from potstill.evaluate.quality import predict
    from potstill.exports.runtimes import TorchRunner

    is_teacher = sees == "teacher"
    party = run.open(run.teacher) if is_teacher else cut_of(run)
    found = predict(TorchRunner(model.to(DEVICE)), party.encoded("test"), party.collator)
    return float(run.open(run.rows).task.quality(found.logits, found.labels)["accuracy"])


if __name__ == "__main__":
    main()
