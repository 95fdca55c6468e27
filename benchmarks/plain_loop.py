"""Potstill against the loop that most tutorials show, on the same data, epochs, batch size and student.

    python benchmarks/plain_loop.py --run out/quality/sst2-seed0-ratio0.9 --epochs 3

The plain loop pads every row to 512 tokens, asks the teacher live in every epoch, does not bucket, and reads the loss back
in every step. All its steps cost the same, so a sample of them (`--steps`) is timed and multiplied; `--whole` runs it to the
end and measures its accuracy too. Potstill's side is timed whole: encoding, the teacher's answers, training.
Both sides use fp32 and the same threads. `--run` names a finished output folder, which gives teacher, cut student and rows.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch.nn import functional

PADDED_TOKENS, TEMPERATURE, ALPHA = 512, 2.0, 0.7


def main() -> None:
    """Time both sides and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--steps", type=int, default=6, help="steps of the plain loop that are timed")
    parser.add_argument("--whole", action="store_true", help="run the plain loop to the end")
    arguments = parser.parse_args()
    from potstill.cli import _quiet_libraries
    from potstill.pipeline.reevaluate import open_run

    _quiet_libraries()
    run = open_run(arguments.run)
    plain_seconds, plain_accuracy, steps = plain_loop(run, arguments)
    ours_seconds, ours_accuracy = potstill_run(run, arguments)
    how = "measured whole" if arguments.whole else f"{arguments.steps} steps timed, times {steps}"
    shown = f"{plain_accuracy:.4f}" if plain_accuracy is not None else "–"
    print(f"\n{'side':<12} {'seconds':>10} {'test accuracy':>14}")
    print(f"{'plain loop':<12} {plain_seconds:>10.1f} {shown:>14}   ({how})")
    print(f"{'Potstill':<12} {ours_seconds:>10.1f} {ours_accuracy:>14.4f}")
    print(f"ratio {plain_seconds / ours_seconds:.1f}")


def plain_loop(run: Any, arguments: argparse.Namespace) -> tuple[float, float | None, int]:
    """Seconds of the tutorial's loop, its test accuracy where it was run whole, and its number of steps."""
    from potstill.pipeline.student_stages import load_student

    student, tokenizer = load_student(run, run.folder / "work/student/model")
    teacher, teacher_tokenizer = run.teacher.model, run.teacher.processor
    split = run.split("train")
    texts, labels = list(split["text"]), torch.tensor(split["label"])
    optimizer = torch.optim.AdamW(student.parameters(), lr=arguments.learning_rate)
    per_epoch = (len(texts) + arguments.batch_size - 1) // arguments.batch_size
    total = per_epoch * arguments.epochs
    wanted = total if arguments.whole else arguments.steps + 1
    student.train()
    seconds, done, running = 0.0, 0, 0.0
    order = np.random.default_rng(0)
    while done < wanted:
        shuffled = order.permutation(len(texts))
        for start in range(0, len(texts), arguments.batch_size):
            if done >= wanted:
                break
            began = time.perf_counter()
            rows = shuffled[start : start + arguments.batch_size]
            batch = [texts[row] for row in rows]
            asked = {"padding": "max_length", "truncation": True, "max_length": PADDED_TOKENS, "return_tensors": "pt"}
            with torch.no_grad():
                target = teacher(**teacher_tokenizer(batch, **asked)).logits
            logits = student(**tokenizer(batch, **asked)).logits
            soft = functional.kl_div(
                functional.log_softmax(logits / TEMPERATURE, -1),
                functional.softmax(target / TEMPERATURE, -1),
                reduction="batchmean",
            )
            loss = ALPHA * TEMPERATURE**2 * soft + (1 - ALPHA) * functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            running += loss.item()
            if done > 0 or arguments.whole:
                seconds += time.perf_counter() - began
            done += 1
    if arguments.whole:
        return seconds, accuracy(run, student), total
    return seconds / arguments.steps * total, None, total


def potstill_run(run: Any, arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds and test accuracy of the same work done by Potstill: tokenise, ask the teacher once, train in buckets."""
    from potstill.pipeline.student_stages import load_student
    from potstill.teacher.cache import CachedTeacher, write_cache
    from potstill.teacher.live import LiveTeacher
    from potstill.training.stages import StageSettings, train_stage

    student, tokenizer = load_student(run, run.folder / "work/student/model")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        began = time.perf_counter()
        rows = run.task.encode(run.split("train"), tokenizer, folder / "student")
        theirs = run.task.encode(run.split("train"), run.teacher.processor, folder / "teacher")
        write_cache(
            LiveTeacher(run.teacher.model, dtype="float32"), theirs, run.task.collator(run.teacher.processor), folder / "cache"
        )
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
        return time.perf_counter() - began, accuracy(run, student)


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
