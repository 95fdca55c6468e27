"""The comparison of methods on an accelerator: all students of a pair and seed beside each other in one process.

    python benchmarks/methods_together.py --seconds 280            # everything: teachers, then students, as far as the time goes
    python benchmarks/methods_together.py --epochs 30              # as long as that takes
    python benchmarks/methods_together.py --table                  # the table of what is done so far

One process trains each teacher, one each pair and seed: on every batch the teacher answers once, and the students of all methods
take their steps (`beside`), recorded as CUDA graphs. SGD with Nesterov's momentum 0.9, weight decay 5e-4, a cosine behind a
short rise, batches of 512; the peak of the learning rate is that of batches of 64 in the published protocol, 0.05 for all nets,
times the root of eight; bfloat16; crops and flips on the device. Every cell has the same epochs.

--beside processes work at a time, the first seed of every pair before the second. With --seconds the first of a phase measure
together how fast they are while all of them work, and agree on how many of the epochs that were asked for fit, for all processes
of the phase. Every cell is written after each of its epochs, so that a killed run tells what it has.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors.torch import load_file, save_file

from beside import Learner, Settings, measure, step_all, train_epoch
from cifar_device import DeviceRows, decode_once
from cifar_nets import PAIRS, StagedNet
from method_cells import BATCH, METHODS, RATE, new, record, stages_of
from method_table import agreement, table
from potstill.ground.disk import read_json, write_json_atomic
from potstill.knowledge.live import LiveTeacher
from potstill.methods.contract import Phase, TermSpec
from potstill.models.taps import TapReader
from recorded import EAGER_STEPS, Desk, Lane

TEACHER_EPOCHS = {"resnet56": 40, "resnet32x4": 20, "vgg13": 30}  # where nobody asks for others
TEACHER_SHARE = 0.22  # of the seconds, at most
MARGIN = 1.12  # evaluations, and what a short measurement misses
WARM_STEPS = EAGER_STEPS + 2
PATIENCE = 300.0  # seconds that a process waits for the others


@dataclass(frozen=True)
class Plan:
    """What all processes of a start know.

    Args:
        pairs: Names in `cifar_nets.PAIRS`.
        methods: Of every pair.
        seeds: Of every pair.
        side: Pixels.
        images: Training images.
        tests: Test images.
        batch: Rows of a batch.
        rate: Peak of the learning rate.
        epochs: Of every student, at most.
        teacher_epochs: By teacher, at most.
        teachers_by: When the teachers should be done, as `time.time`; None where nobody waits.
        students_by: Likewise.
        measured_seconds: How long speeds are measured.
        lanes: Streams of a process, on a GPU.
        beside: Processes that work at a time.
    """

    pairs: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    side: int
    images: int
    tests: int
    batch: int
    rate: float
    epochs: int
    teacher_epochs: dict[str, int]
    teachers_by: float | None
    students_by: float | None
    measured_seconds: float
    lanes: int
    beside: int

    def teachers(self) -> dict[str, str]:
        """Name of the job → teacher."""
        return {f"teacher-{name}": name for name in dict.fromkeys(PAIRS[pair].teacher for pair in self.pairs)}

    def students(self) -> dict[str, tuple[str, int]]:
        """Name of the job → pair and seed."""
        return {f"students-{pair}-seed{seed}": (pair, seed) for seed in self.seeds for pair in self.pairs}


class Job:
    """What the processes have in common: the plan, the images, the device, and agreements through files.

    Args:
        name: Of this job in the plan.
        folder: Of the run.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        held = read_json(folder / "plan.json")
        self.plan = Plan(**{key: tuple(value) if isinstance(value, list) else value for key, value in held.items()})
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.is_half = self.device.type == "cuda"
        self.lanes = [Lane() for _ in range(self.plan.lanes)] if self.device.type == "cuda" else [None]
        self.desk = Desk() if self.device.type == "cuda" else None

    def rows(self, split: str, count: int, *, seed: int = 0) -> DeviceRows:
        """Images that the driver has decoded."""
        return DeviceRows(self.folder / "images" / f"{split}-{count}-{self.plan.side}.npz", self.device, seed=seed)

    def settings(self, epochs: int, seed: int) -> Settings:
        """How students of this job train."""
        return Settings(self.plan.batch, epochs, seed, is_half=self.is_half)

    def new(self, name: str, seed: int) -> StagedNet:
        """A net on the device."""
        return new(name, seed).to(self.device, memory_format=torch.channels_last)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def share_that_fits(
        self, phase: Sequence[str], learners: Sequence[Learner], source: Any, rows: DeviceRows, tests: DeviceRows, until: float
    ) -> float:
        """Measure the speed while others do, and agree with them on the share of the planned steps that ends in time.

        Args:
            phase: Its jobs, this one too; the first of them measure.
            learners: To measure with; they are spoilt.
            source: The teacher.
            rows: Training images.
            tests: Test images.
            until: When the phase should end, as `time.time`.
        """
        others = list(phase[: self.plan.beside])
        torch.backends.cudnn.benchmark = True  # not while learners are built: their few probe rows are not worth a search
        batches = _without_end(rows, self.plan.batch)
        for _ in range(WARM_STEPS):
            step_all(source, learners, next(batches), self.desk)
        measure(learners[:1], tests)
        self._meet("warm", others, {})
        self.wait()
        started, num_steps = time.perf_counter(), 0
        while num_steps < 4 or time.perf_counter() - started < self.plan.measured_seconds:
            step_all(source, learners, next(batches), self.desk)
            num_steps += 1
            if num_steps % 4 == 0:
                self.wait()
        self.wait()
        seconds = (time.perf_counter() - started) / num_steps
        planned = learners[0].settings.epochs * (len(rows) // self.plan.batch)
        speeds = self._meet("speed", others, {"seconds": seconds * planned, "at": time.time()})
        # While all work, each has its part of the device: together they need the mean of what each would need at this speed.
        needed = MARGIN * sum(speed["seconds"] for speed in speeds) / len(speeds) * max(1.0, len(phase) / self.plan.beside)
        left = until - max(speed["at"] for speed in speeds)
        print(f"{1000 * seconds:.1f} ms a step, {needed:.0f} s needed by {len(phase)} jobs, {left:.0f} s left", flush=True)
        torch.backends.cudnn.benchmark = False
        return min(1.0, max(0.0, left / needed))

    def _meet(self, what: str, others: Sequence[str], told: Mapping[str, float]) -> list[dict[str, float]]:
        """Tell the others something, and hear what each of them tells, but for those that have failed."""
        meeting = self.folder / "agreed"
        write_json_atomic(meeting / f"{what}-{self.name}.json", dict(told))
        for other in others:
            file = meeting / f"{what}-{other}.json"
            _wait_until(lambda file=file, other=other: file.is_file() or (meeting / f"failed-{other}").is_file(), str(file))
        files = [meeting / f"{what}-{other}.json" for other in others]
        return [read_json(file) for file in files if file.is_file()]

    def train(
        self, learners: Sequence[Learner], source: Any, rows: DeviceRows, tests: DeviceRows, tell: Callable[..., None]
    ) -> None:
        """All epochs; after each, `tell` gets every learner with its accuracies so far and its share of the seconds."""
        torch.backends.cudnn.benchmark = True
        started = time.perf_counter()
        found: list[list[float]] = [[] for _ in learners]
        for epoch in range(learners[0].settings.epochs):
            train_epoch(source, learners, rows, epoch, self.desk)
            for own, accuracy in zip(found, measure(learners, tests)):
                own.append(accuracy)
            seconds = (time.perf_counter() - started) / len(learners)
            for learner, own in zip(learners, found):
                tell(learner, own, seconds)
            print(
                f"epoch {epoch + 1}: {seconds * len(learners):.1f} s, best of all {max(own[-1] for own in found):.4f}", flush=True
            )


def train_teacher(job: Job, name: str) -> None:
    """Train a teacher; those that are there are not started."""
    file = job.folder / f"{job.name}.safetensors"
    plan, rows, tests = job.plan, job.rows("train", job.plan.images), job.rows("test", job.plan.tests)
    stage = Phase("labels", (TermSpec("ce"),), epochs=1.0, learning_rate=plan.rate)

    def learner(epochs: int) -> Learner:
        return Learner(name, job.new(name, 0), [stage], None, rows, job.settings(epochs, 0), job.lanes[0])

    epochs = plan.teacher_epochs[name]
    if plan.teachers_by is not None:
        others = [other for other in plan.teachers() if not (job.folder / f"{other}.safetensors").is_file()]
        share = job.share_that_fits(others, [learner(epochs)], None, rows, tests, plan.teachers_by)
        epochs = max(1, int(epochs * share))

    def tell(learner: Learner, found: list[float], seconds: float) -> None:
        record(job.folder / f"{job.name}.json", found, seconds, {"net": name, "planned": epochs, "fault": learner.fault})

    trained = learner(epochs)
    job.train([trained], None, rows, tests, tell)
    if trained.fault:
        sys.exit(f"teacher {name}: {trained.fault}")
    partial = file.with_suffix(".partial")
    save_file({key: value.cpu().contiguous() for key, value in trained.net.state_dict().items()}, partial)
    os.replace(partial, file)


def train_students(job: Job, pair_name: str, seed: int) -> None:
    """Train the students of all methods for one pair and seed."""
    plan, pair = job.plan, PAIRS[pair_name]
    rows, tests = job.rows("train", plan.images, seed=seed), job.rows("test", plan.tests)
    file, failed = (
        job.folder / name for name in (f"teacher-{pair.teacher}.safetensors", f"agreed/failed-teacher-{pair.teacher}")
    )
    _wait_until(lambda: file.is_file() or failed.is_file(), str(file), patience=float("inf"))
    if not file.is_file():
        sys.exit(f"teacher {pair.teacher} was not trained")
    teacher = job.new(pair.teacher, 0)
    teacher.load_state_dict(load_file(file))
    source = LiveTeacher(teacher, TapReader(), dtype="bfloat16" if job.is_half else "float32")

    shape = job.new(pair.student, seed)

    def stages(method: str, epochs: int) -> tuple[Phase, ...]:
        return stages_of(method, pair, shape, teacher, epochs, batch=plan.batch, rate=plan.rate)

    def learner(method: str, epochs: int, lane: Lane | None) -> Learner:
        heard, net, settings = None if method == "baseline" else source, job.new(pair.student, seed), job.settings(epochs, seed)
        return Learner(method, net, stages(method, epochs), heard, rows, settings, lane)

    def learners(epochs: int) -> list[Learner]:
        return [learner(method, epochs, lane) for method, lane in zip(plan.methods, itertools.cycle(job.lanes))]

    epochs, phase, agreed = plan.epochs, list(plan.students()), job.folder / "agreed" / "epochs.json"
    if plan.students_by is not None and job.name in phase[: plan.beside]:
        spoilt = learners(epochs)
        epochs = max(1, int(epochs * job.share_that_fits(phase, spoilt, source, rows, tests, plan.students_by)))
        write_json_atomic(agreed, {"epochs": epochs})  # the same in all that have measured
        del spoilt
    elif plan.students_by is not None:
        epochs = read_json(agreed)["epochs"]
    places = {"pair": pair_name, "seed": seed, "planned": epochs, "batch": plan.batch, "device": str(job.device)}
    terms = {method: [stage.losses() for stage in stages(method, epochs)] for method in plan.methods}

    def tell(learner: Learner, found: list[float], seconds: float) -> None:
        told = {**places, "method": learner.name, "terms": terms[learner.name], "fault": learner.fault}
        record(job.folder / pair_name / f"{learner.name}-seed{seed}.json", found, seconds, told)

    job.train(learners(epochs), source, rows, tests, tell)


def _without_end(rows: DeviceRows, batch: int) -> Iterator[dict[str, Any]]:
    while True:
        yield from rows.epoch(0, batch)


def _wait_until(is_there: Callable[[], bool], what: str, *, patience: float = PATIENCE) -> None:
    started = time.monotonic()
    while not is_there():
        if time.monotonic() - started > patience:
            sys.exit(f"{what} did not come within {patience:.0f} s")
        time.sleep(0.1)


def drive(plan: Plan, folder: Path) -> list[str]:
    """Decode the images, start every job, and wait; returns the jobs that failed."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "agreed").mkdir(exist_ok=True)
    for old in (folder / "agreed").iterdir():
        old.unlink()
    for pair in plan.pairs:
        (folder / pair).mkdir(exist_ok=True)
    for split, count in (("train", plan.images), ("test", plan.tests)):
        decode_once(split, count, plan.side, folder / "images")
    write_json_atomic(folder / "plan.json", asdict(plan))
    teachers = [name for name in plan.teachers() if not (folder / f"{name}.safetensors").is_file()]
    waiting, jobs, failed = [*teachers, *plan.students()], {}, []
    try:
        while waiting or jobs:
            # students of the first processes are started beside the teachers: they load what they need, and wait
            while waiting and len(jobs) < plan.beside + sum(name in jobs for name in teachers) + (waiting[0] in teachers):
                name = waiting.pop(0)
                with (folder / "logs" / f"{name}.log").open("w") as log:
                    command = [sys.executable, __file__, "--job", name, "--folder", str(folder)]
                    jobs[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            time.sleep(0.2)
            for name, process in list(jobs.items()):
                if process.poll() is not None:
                    del jobs[name]
                    if process.returncode:
                        failed.append(name)
                        (folder / "agreed" / f"failed-{name}").touch()
    finally:
        for process in jobs.values():
            process.terminate()
    return failed


def plan_of(arguments: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    wished = arguments.teacher_epochs
    now, seconds = time.time(), arguments.seconds
    return Plan(
        pairs=tuple(arguments.pairs),
        methods=tuple(arguments.methods),
        seeds=tuple(arguments.seeds),
        side=arguments.side,
        images=arguments.images,
        tests=arguments.tests,
        batch=arguments.batch,
        rate=RATE * math.sqrt(arguments.batch / BATCH) if arguments.rate is None else arguments.rate,
        epochs=arguments.epochs,
        teacher_epochs={name: epochs if wished is None else wished for name, epochs in TEACHER_EPOCHS.items()},
        teachers_by=None if seconds is None else now + TEACHER_SHARE * seconds,
        students_by=None if seconds is None else now + seconds,
        measured_seconds=arguments.measured_seconds,
        lanes=arguments.lanes,
        beside=arguments.beside,
    )


def work(name: str, folder: Path) -> None:
    """One job of the plan."""
    torch.set_num_threads(1)
    job = Job(name, folder)
    if name in job.plan.teachers():
        train_teacher(job, job.plan.teachers()[name])
    else:
        train_students(job, *job.plan.students()[name])


def main() -> None:
    """Train what the plan says, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30, help="of every student, at most")
    parser.add_argument("--teacher-epochs", type=int, help=f"of every teacher, at most; by default {TEACHER_EPOCHS}")
    parser.add_argument("--seconds", type=float, help="all that may be spent; fewer epochs are trained where it does not do")
    parser.add_argument("--measured-seconds", type=float, default=6.0, help="for which speeds are measured")
    parser.add_argument("--beside", type=int, default=4, help="processes that work at a time")
    parser.add_argument("--lanes", type=int, default=4, help="streams of a process, on a GPU")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, help="peak of the learning rate; by default 0.05 times the root of batch / 64")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--tests", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=Path("out/methods"))
    parser.add_argument("--table", action="store_true", help="only print what is done")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        work(arguments.job, arguments.folder)
        return
    folder = arguments.output / "accelerator"
    failed: list[str] = []
    if not arguments.table:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
        failed = drive(plan_of(arguments), folder)
    rows = table(folder, arguments.pairs)
    orders = agreement(rows)
    with contextlib.suppress(FileNotFoundError):
        write_json_atomic(folder / "table.json", {"protocol": read_json(folder / "plan.json"), "rows": rows, "orders": orders})
    if failed:
        sys.exit(f"failed, see {folder / 'logs'}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
