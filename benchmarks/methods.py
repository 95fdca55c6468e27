"""Methods of the field on CIFAR-10 with the field's small nets: teacher, no distillation, and nine methods, over seeds.

    python benchmarks/methods.py --threads 1                       # reduced protocol, every pair
    python benchmarks/methods.py --pairs resnet56-resnet20 --seeds 0
    python benchmarks/methods.py --protocol full                   # on an accelerator: 240 epochs, teachers of 93 % and more
    python benchmarks/methods.py --table                           # the table of what is done so far
    python benchmarks/methods_together.py                          # on an accelerator: all students of a pair in one process

Both protocols train with SGD (momentum 0.9, weight decay 5e-4, batches of 64) on random crops and flips, the same number of
epochs for every cell; weights of the methods are the published ones (CIFAR-100 protocol), given by the catalogue of methods or
by `cifar_nets.PAIRS` where they were published by pair. Losses and methods are Potstill's own, run by `DistillationTrainer`.

The REDUCED protocol is made to end within an hour on two cores that multiply bfloat16 (by times of single steps, two hours on
two that do not), so its accuracies are far below those of the full one, and its order of methods says little about
convergence: images scaled to 16 × 16, 3,000 training images in 8 epochs (10,000 for the teachers), a cosine schedule, bfloat16
where that is faster. An epoch's views are the same for every method and seed, so a teacher is asked about each of them once.
Each cell is one file under --output; a second start does what is missing, and a second process beside the first takes other
cells: on two cores start the command twice with --threads 1.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from cifar_nets import PAIRS, StagedNet
from cifar_rows import Views, load
from cifar_teacher import RememberedTeacher
from method_cells import BATCH, DECAY, METHODS, MOMENTUM, RATE, new, rate_factor, record, stages_of
from method_table import agreement, table
from potstill import DistillationTrainer
from potstill.errors import OutputError
from potstill.ground.disk import write_json_atomic
from potstill.ground.hardware import bf16_pays
from potstill.ground.lock import FolderLock
from potstill.methods.contract import Phase, TermSpec
from potstill.training.head_start import ROWS as HEAD_ROWS
from potstill.training.head_start import start_head


@dataclass(frozen=True)
class Protocol:
    """How long and on what.

    Args:
        side: Pixels.
        images: Training images.
        teacher_images: Those of the teachers.
        tests: Test images.
        epochs: Of every student.
        teacher_epochs: Of every teacher.
        is_stepped: The published steps (a tenth at 5/8, 6/8 and 7/8 of the epochs), else a cosine.
    """

    side: int
    images: int
    teacher_images: int
    tests: int
    epochs: int
    teacher_epochs: int
    is_stepped: bool


PROTOCOLS = {
    "reduced": Protocol(16, 3_000, 10_000, 2_000, 8, 8, False),
    "full": Protocol(32, 50_000, 50_000, 10_000, 240, 240, True),
}


class ProtocolTrainer(DistillationTrainer):
    """`DistillationTrainer` with the optimizer and schedule of the protocol; bridges of losses are trained like the student."""

    is_stepped = False

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """SGD over student and bridges."""
        if self.optimizer is None:
            source: nn.Module = self.model if model is None else model
            parameters = [parameter for parameter in source.parameters() if parameter.requires_grad]
            self.optimizer = torch.optim.SGD(parameters, lr=self.args.learning_rate, momentum=MOMENTUM, weight_decay=DECAY)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The published steps, or a cosine behind a short rise."""

        def factor(step: int) -> float:
            return rate_factor(step / max(1, num_training_steps), num_training_steps, is_stepped=self.is_stepped)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler


class EachEpoch(TrainerCallback):
    """Turns to the next views of the images, and measures the student on the test images after the epoch."""

    def __init__(self, rows: Views, tests: Views, offset: int) -> None:
        self.rows, self.tests, self.epoch = rows, tests, offset
        self.accuracies: list[float] = []
        self.seconds = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Other crops and flips."""
        self.rows.view = self.epoch
        self.epoch += 1

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Accuracy on the test images."""
        started = time.perf_counter()
        self.accuracies.append(accuracy(model, self.tests, args.device))
        self.seconds += time.perf_counter() - started


@torch.no_grad()
def accuracy(model: nn.Module, rows: Views, device: torch.device) -> float:
    """Share of the rows whose largest logit is the label's."""
    was_training = model.training
    model.eval()
    right = 0
    for start in range(0, len(rows), 250):
        batch = rows.collate(rows.__getitems__(list(range(start, min(start + 250, len(rows))))))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16_pays(device.type)):
            logits = model(batch["pixel_values"].to(device))
        right += int((logits.argmax(-1).cpu() == batch["labels"]).sum())
    model.train(was_training)
    return right / len(rows)


def train(net: StagedNet, stages: Sequence[Phase], rows: Views, teacher: Any, seed: int, run: Run) -> list[float]:
    """Train through the stages and return the accuracy on the test images after every epoch."""
    found: list[float] = []
    for stage in stages:
        if stage.settings.get("starts_head"):
            rows.view = len(found)
            start_head(net, teacher, some_batches(rows))
        each = EachEpoch(rows, run.tests, len(found))
        arguments = TrainingArguments(
            output_dir=str(run.output / "scratch"),
            per_device_train_batch_size=BATCH,
            num_train_epochs=stage.epochs,
            learning_rate=stage.learning_rate,
            max_grad_norm=0.0,
            bf16=run.is_bf16(net),
            use_cpu=run.device.type == "cpu",
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_drop_last=True,
            dataloader_pin_memory=False,
        )
        trainer = ProtocolTrainer(
            net,
            arguments,
            teacher=teacher,
            losses=stage.losses(),
            train_dataset=rows,
            data_collator=rows.collate,
            callbacks=[each],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.is_stepped = run.protocol.is_stepped
        trainer.train()
        found += each.accuracies
    return found


def some_batches(rows: Views) -> Iterator[dict[str, Any]]:
    """The first rows, in batches, in the view that they have now."""
    for start in range(0, min(HEAD_ROWS, len(rows)), BATCH):
        yield rows.collate(rows.__getitems__(list(range(start, min(start + BATCH, HEAD_ROWS, len(rows))))))


class Run:
    """The settings of one start, the images, and the teachers, each trained or loaded once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.protocol = protocol_of(arguments)
        self.output: Path = arguments.output / arguments.protocol
        self.output.mkdir(parents=True, exist_ok=True)
        self.rows, self.tests = load(self.protocol.images, self.protocol.tests, self.protocol.side)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teachers: dict[str, StagedNet] = {}
        self.remembered: dict[str, RememberedTeacher] = {}

    def is_bf16(self, net: StagedNet) -> bool:
        """Whether a net trains in bfloat16, where that is faster; on a CPU filters of single channels are slower in it."""
        if not bf16_pays(self.device.type):
            return False
        return self.device.type == "cuda" or not any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in net.modules())

    def teacher(self, name: str) -> StagedNet:
        """A trained teacher."""
        if name not in self.teachers:
            file, net = self.output / f"teacher-{name}.safetensors", new(name, 0)
            from safetensors.torch import load_file, save_file

            with waiting_lock(self.output / f"teacher-{name}"):
                if not file.is_file():
                    save_file({key: value.contiguous() for key, value in self._teach(name, net).state_dict().items()}, file)
            net.load_state_dict(load_file(file))
            self.teachers[name] = net.eval()
        return self.teachers[name]

    def source(self, name: str) -> RememberedTeacher:
        """What a teacher says of the training images; one teacher is remembered at a time."""
        if name not in self.remembered:
            self.remembered = {name: RememberedTeacher(self.teacher(name).to(self.device), len(self.rows), self.protocol.epochs)}
        return self.remembered[name]

    def _teach(self, name: str, net: StagedNet) -> StagedNet:
        started = time.perf_counter()
        rows, _ = load(self.protocol.teacher_images, 1, self.protocol.side)
        stage = Phase("labels", (TermSpec("ce"),), epochs=self.protocol.teacher_epochs, learning_rate=RATE)
        found = train(net, [stage], rows, None, 0, self)
        record(self.output / f"teacher-{name}.json", found, time.perf_counter() - started, {"net": name})
        return net.cpu()

    def cell(self, pair_name: str, method: str, seed: int) -> None:
        """One student, unless its file is there."""
        pair = PAIRS[pair_name]
        file = self.output / pair_name / f"{method}-seed{seed}.json"
        file.parent.mkdir(exist_ok=True)
        teacher = self.teacher(pair.teacher)
        with contextlib.suppress(OutputError), held_lock(file.with_suffix("")):
            if file.is_file():
                return
            started = time.perf_counter()
            student = new(pair.student, seed)
            stages = stages_of(method, pair, student, teacher, self.protocol.epochs)
            source = None if method == "baseline" else self.source(pair.teacher)
            found = train(student, stages, self.rows, source, seed, self)
            told = {"pair": pair_name, "method": method, "seed": seed, "terms": [stage.losses() for stage in stages]}
            record(file, found, time.perf_counter() - started, told)
            print(f"{pair_name:<24} {method:<10} seed {seed}  last {found[-1]:.4f}  best {max(found):.4f}", flush=True)


@contextlib.contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Only one process works on a cell; raises OutputError where another does."""
    lock = FolderLock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """As `held_lock`, waiting for the other process."""
    lock = FolderLock(path)
    lock.acquire(timeout_seconds=-1)
    try:
        yield
    finally:
        lock.release()


def protocol_of(arguments: argparse.Namespace) -> Protocol:
    """The named protocol with what the command line changes of it."""
    named = PROTOCOLS[arguments.protocol]
    changes = {name: getattr(arguments, name) for name in asdict(named) if getattr(arguments, name, None) is not None}
    return replace(named, **changes)


def main() -> None:
    """Do what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="reduced")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("out/methods"))
    parser.add_argument("--table", action="store_true", help="only print what is done")
    for name in ("side", "images", "teacher-images", "tests", "epochs", "teacher-epochs"):
        parser.add_argument(f"--{name}", type=int, help="instead of the protocol's")
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    if not arguments.table:
        run = Run(arguments)
        for pair in arguments.pairs:
            for seed in arguments.seeds:
                for method in arguments.methods:
                    run.cell(pair, method, seed)
    folder = arguments.output / arguments.protocol
    print(f"\nprotocol {arguments.protocol}: {protocol_of(arguments)}\n")
    rows = table(folder, arguments.pairs)
    if not rows:
        sys.exit(f"{folder} holds no finished cell")
    orders = agreement(rows)
    write_json_atomic(folder / "table.json", {"protocol": asdict(protocol_of(arguments)), "rows": rows, "orders": orders})
    print(f"\nfigures: {folder / 'table.json'}")


if __name__ == "__main__":
    main()
