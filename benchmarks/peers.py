"""Potstill against TextBrewer and torchdistill on the same work: teacher, student weights, rows, batch size, epochs, objective.

    python -m venv /tmp/textbrewer   && /tmp/textbrewer/bin/pip install torch transformers numpy tqdm tensorboard textbrewer
    python -m venv /tmp/torchdistill && /tmp/torchdistill/bin/pip install torch torchvision transformers torchdistill
    python benchmarks/peers.py --run out/quality/sst2-seed0-ratio0.9 \\
        --peer textbrewer=/tmp/textbrewer/bin/python --peer torchdistill=/tmp/torchdistill/bin/python

`--run` names a finished output folder, which gives teacher, cut student and rows. Every side is a process of its own in its own
interpreter, started in turns, on the same number of threads, in fp32. A peer is used through its public interface alone and
is given its rows tokenised: only its training is timed. Potstill's side is timed from the texts on: tokenising, the teacher's
answers, training. `--pad` says how the peers pad: `longest` (of the batch, the kindest), or a fixed number of tokens.
The objective is 0.7 · τ² · KL + 0.3 · CE at τ = 2, with AdamW and a rate that falls linearly.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

TEMPERATURE, ALPHA, MAX_NORM = 2.0, 0.7, 1.0


def main() -> None:
    """Run every side in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--peer", action="append", default=[], help="textbrewer=PYTHON or torchdistill=PYTHON")
    parser.add_argument("--rows", type=int, help="training rows; all by default")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--pad", default="longest", help="longest, or so many tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--inside", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(SIDES[arguments.inside[0]](Path(arguments.inside[1]))))
        return
    if arguments.run is None:
        parser.error("--run is needed")
    pythons = {"potstill": sys.executable, **dict(peer.split("=", 1) for peer in arguments.peer)}
    unknown = sorted(set(pythons) - set(SIDES))
    if unknown:
        parser.error(f"--peer {unknown[0]}: only textbrewer and torchdistill are known")
    with tempfile.TemporaryDirectory() as place:
        write_work(arguments, Path(place))
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in pythons}
        for _ in range(arguments.rounds):
            for side, python in pythons.items():
                found[side].append(one_side(side, python, Path(place)))
    print_table(found, arguments)


def one_side(side: str, python: str, place: Path) -> dict[str, Any]:
    """Figures of one process; a side that fails tells its last lines."""
    work = json.loads((place / "work.json").read_text())
    threads = str(work["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [python, __file__, "--inside", side, str(place)], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        sys.exit(f"{side} failed:\n" + "\n".join((done.stderr or done.stdout).splitlines()[-12:]))
    return dict(json.loads(done.stdout.splitlines()[-1]))


def write_work(arguments: argparse.Namespace, place: Path) -> None:
    """What every side does, and the rows in the tokens of teacher and student."""
    from potstill.cli import _quiet_libraries
    from potstill.pipeline.reevaluate import open_run

    _quiet_libraries()
    run = open_run(arguments.run)
    theirs, ours, test = run.teacher_rows("train"), run.student_rows("train"), run.student_rows("test")
    count = min(arguments.rows or len(ours), len(ours))
    rows = {"teacher": tokens_of(theirs, count), "student": tokens_of(ours, count), "labels": theirs.labels[:count].tolist()}
    (place / "rows.json").write_text(json.dumps(rows))
    (place / "test.json").write_text(json.dumps({"student": tokens_of(test, len(test)), "labels": test.labels.tolist()}))
    run.teacher.model.save_pretrained(place / "teacher")
    work = {
        "run": str(arguments.run.resolve()),
        "student": str((arguments.run / "work/student/model").resolve()),
        "teacher": str(place / "teacher"),
        "rows": count,
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "pad": arguments.pad,
        "threads": arguments.threads,
    }
    (place / "work.json").write_text(json.dumps(work))


def tokens_of(rows: Any, count: int) -> list[list[int]]:
    """Token ids of the first rows."""
    return [row["input_ids"].tolist() for row in rows.__getitems__(range(count))]


# -- what the peers share: models, batches, and the test; no line of Potstill


class Work:
    """Teacher, student and rows of one side."""

    def __init__(self, place: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        self.facts = json.loads((place / "work.json").read_text())
        self.place = place
        torch.set_num_threads(self.facts["threads"])
        torch.manual_seed(0)
        self.teacher = AutoModelForSequenceClassification.from_pretrained(self.facts["teacher"]).eval()
        self.student = AutoModelForSequenceClassification.from_pretrained(self.facts["student"]).train()
        self.rows = json.loads((place / "rows.json").read_text())
        self.steps = -(-len(self.rows["labels"]) // self.facts["batch_size"]) * self.facts["epochs"]

    def row(self, index: int) -> tuple[list[int], list[int], int]:
        """Tokens of the teacher, tokens of the student, and the label."""
        return self.rows["teacher"][index], self.rows["student"][index], self.rows["labels"][index]

    def padded(self, rows: list[list[int]]) -> dict[str, Any]:
        """Inputs of a model [B, T], padded with zeros as the recipe of the comparison says."""
        import torch

        width = max(map(len, rows)) if self.facts["pad"] == "longest" else int(self.facts["pad"])
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row[:width])
            mask[number, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def accuracy(self) -> float:
        """Of the student on the test split."""
        import torch

        test = json.loads((self.place / "test.json").read_text())
        self.student.eval()
        right = 0
        with torch.inference_mode():
            for start in range(0, len(test["labels"]), 32):
                rows = test["student"][start : start + 32]
                answers = self.student(**self.padded(rows)).logits.argmax(-1).tolist()
                right += sum(a == b for a, b in zip(answers, test["labels"][start : start + 32]))
        return right / len(test["labels"])

    def timed(self, train: Callable[[], None], version: str) -> dict[str, Any]:
        """Train, then test."""
        wall, cpu = time.perf_counter(), time.process_time()
        train()
        figures = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        return {**figures, "steps": self.steps, "accuracy": self.accuracy(), "version": version}


def with_textbrewer(place: Path) -> dict[str, Any]:
    """GeneralDistiller with the logits of a live teacher."""
    import logging
    from importlib.metadata import version

    import torch
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    from transformers import get_linear_schedule_with_warmup

    logging.disable(logging.INFO)
    work = Work(place)

    def collate(indices: list[int]) -> dict[str, Any]:
        theirs, ours, labels = zip(*map(work.row, indices))
        return {"teacher": work.padded(list(theirs)), "student": {**work.padded(list(ours)), "labels": torch.tensor(labels)}}

    loader = torch.utils.data.DataLoader(
        range(len(work.rows["labels"])), work.facts["batch_size"], shuffle=True, collate_fn=collate
    )
    distiller = GeneralDistiller(
        TrainingConfig(
            device="cpu", output_dir=str(place / "textbrewer"), log_dir=str(place / "textbrewer-log"), ckpt_frequency=1
        ),
        DistillationConfig(
            temperature=TEMPERATURE, hard_label_weight=1 - ALPHA, kd_loss_type="ce", kd_loss_weight=ALPHA * TEMPERATURE**2
        ),
        work.teacher,
        work.student,
        lambda batch, outputs: {"logits": outputs.logits},
        lambda batch, outputs: {"logits": outputs.logits, "losses": outputs.loss, "labels": batch["labels"]},
    )
    optimizer = torch.optim.AdamW(work.student.parameters(), lr=work.facts["learning_rate"])

    def train() -> None:
        distiller.train(
            optimizer,
            loader,
            num_epochs=work.facts["epochs"],
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args={"num_warmup_steps": round(0.06 * work.steps), "num_training_steps": work.steps},
            max_grad_norm=MAX_NORM,
        )

    return work.timed(train, version("textbrewer"))


def with_torchdistill(place: Path) -> dict[str, Any]:
    """DistillationBox with KDLoss on the logits of a live teacher."""
    import logging
    from importlib.metadata import version

    import torch

    declare_detection_operators()
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.core.interfaces.registry import register_forward_proc_func
    from torchdistill.datasets.registry import register_collate_func

    logging.disable(logging.INFO)
    work = Work(place)
    for parameter in work.teacher.parameters():
        parameter.requires_grad_(False)

    @register_collate_func
    def collate_pairs(items: list[Any]) -> Any:
        theirs, ours, labels = zip(*(work.row(index) for index, _, _ in items))
        return {"teacher": work.padded(list(theirs)), "student": work.padded(list(ours))}, torch.tensor(labels), {}

    @register_forward_proc_func
    def teacher_logits(model: Any, batch: Any, *_: Any, **__: Any) -> Any:
        return model(**batch["teacher"]).logits

    @register_forward_proc_func
    def student_logits(model: Any, batch: Any, *_: Any, **__: Any) -> Any:
        return model(**batch["student"]).logits

    rows = [(index, 0) for index in range(len(work.rows["labels"]))]
    loader = {
        "dataset_id": "train",
        "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}},
        "collate_fn": "collate_pairs",
        "kwargs": {"batch_size": work.facts["batch_size"]},
    }
    paths = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".", "teacher_module_io": "output"}
    knowledge = {"temperature": TEMPERATURE, "alpha": 1 - ALPHA, "beta": ALPHA, "reduction": "batchmean"}
    settings = {
        "num_epochs": work.facts["epochs"],
        "train_data_loader": loader,
        "teacher": {"forward_proc": "teacher_logits", "requires_grad": False},
        "student": {"forward_proc": "student_logits", "requires_grad": True},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": work.facts["learning_rate"]}, "max_grad_norm": MAX_NORM},
        "scheduler": {
            "key": "LinearLR",
            "kwargs": {"start_factor": 1.0, "end_factor": 0.01, "total_iters": work.steps},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": {**paths, **knowledge}}, "weight": 1.0}}},
        },
    }
    box = DistillationBox(work.teacher, work.student, {"train": rows}, settings, torch.device("cpu"), None, False, 1)

    def train() -> None:
        for epoch in range(work.facts["epochs"]):
            box.pre_epoch_process(epoch=epoch)
            for batch, targets, extra in box.train_data_loader:
                box.pre_forward_process()
                loss = box.forward_process(batch, targets, extra)
                box.post_forward_process(loss=loss)
            box.post_epoch_process()

    return work.timed(train, version("torchdistill"))


def declare_detection_operators() -> None:
    """Let torchvision be imported beside a torch that its compiled part does not fit; none of these operators is used.

    The wheel of torchvision on PyPI is built for CUDA; beside a torch for the CPU alone its import fails for want of operators.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in list(sys.modules):
            if name.split(".")[0] == "torchvision":
                del sys.modules[name]
        operators = torch.library.Library("torchvision", "DEF")
        for name in _operator_names():
            operators.define(f"{name}(Tensor x) -> Tensor")
        KEPT.append(operators)


def _operator_names() -> Iterator[str]:
    for name in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d"):
        yield from (name, f"_{name}_backward")
    yield from ("nms", "qnms", "qroi_align")


KEPT: list[Any] = []


def with_potstill(place: Path) -> dict[str, Any]:
    """A stage with cached answers, from the texts on."""
    import torch

    from plain_loop import potstill_run
    from potstill.cli import _quiet_libraries
    from potstill.pipeline.reevaluate import open_run

    _quiet_libraries()
    work = json.loads((place / "work.json").read_text())
    torch.set_num_threads(work["threads"])
    cpu = time.process_time()
    found = potstill_run(open_run(work["run"]), argparse.Namespace(**work))
    steps = -(-work["rows"] // work["batch_size"]) * work["epochs"]
    parts = {"encode": found.encode_seconds, "answers": found.answer_seconds, "training": found.training_seconds}
    return {
        "seconds": found.seconds,
        "cpu_seconds": time.process_time() - cpu,
        "steps": steps,
        "accuracy": found.accuracy,
        "version": "here",
        "parts": parts,
    }


SIDES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "potstill": with_potstill,
    "textbrewer": with_textbrewer,
    "torchdistill": with_torchdistill,
}


def print_table(found: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace) -> None:
    """Medians over the rounds, side by side; the ratio is the peer's seconds over Potstill's."""
    ours = statistics.median(one["seconds"] for one in found["potstill"])
    about = f"{arguments.epochs} epochs, batch size {arguments.batch_size}, {arguments.threads} thread(s)"
    print(f"{about}, peers pad to {arguments.pad}, {arguments.rounds} round(s)")
    print(f"{'side':<22} {'seconds':>9} {'CPU s':>9} {'ms/step':>9} {'accuracy':>9} {'ratio':>7}")
    for side, rounds in found.items():
        seconds, cpu = (statistics.median(one[key] for one in rounds) for key in ("seconds", "cpu_seconds"))
        one = rounds[-1]
        name = f"{side} {one['version']}"
        milliseconds = 1000 * seconds / one["steps"]
        print(f"{name:<22} {seconds:>9.1f} {cpu:>9.1f} {milliseconds:>9.1f} {one['accuracy']:>9.4f} {seconds / ours:>7.2f}")
    for name, seconds in found["potstill"][-1]["parts"].items():
        print(f"  potstill, {name}: {seconds:.1f} s")


if __name__ == "__main__":
    main()
