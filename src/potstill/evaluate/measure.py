"""Measurement of every model of a run on its test rows: answers, costs, interleaved times, and energy by RAPL."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from potstill.contracts.answers import Predictions
from potstill.contracts.format import Format
from potstill.contracts.party import Party
from potstill.contracts.runner import Runner
from potstill.errors import first_line
from potstill.evaluate.further_models import cost_of, example_of, further_subjects, joint_answers
from potstill.evaluate.measured_model import Bench, Subject
from potstill.evaluate.quality import predict, sample_batches
from potstill.exports.catalogue import format_named, way_named
from potstill.exports.delivery import Kept, kept_in, plain_in
from potstill.exports.runtimes import TorchRunner, num_cores
from potstill.exports.timing import latency, time_interleaved
from potstill.ground.devices import compute_device, device_of, placed
from potstill.ground.load import Load, machine_load

logger = logging.getLogger(__name__)

AS_SERVED = "teacher-as-served"
LATENCY_BATCHES = 16
SECONDS_PER_SIZE = 12.0
LARGEST_AS_SERVED = 2_000_000_000  # bytes of a teacher; quantizing a larger one takes minutes and several times its memory
POWERCAP = Path("/sys/class/powercap")


def gather(bench: Bench, folder: Path, on_step: Callable[[str], None] = lambda text: None) -> dict[str, Subject]:
    """Every model of the run with its answers on the test split and its runners.

    Args:
        on_step: Called with what is measured next.
    """
    on_step("the teacher answers the test rows")
    teacher = bench.teacher
    known = joint_answers(bench.teachers, "test", len(bench.rows.label_names)) if bench.options.tasks else None
    subjects = {"teacher": _subject(bench, teacher, known)}
    plain = plain_in(bench.export_facts)
    plain = replace(plain, file=f"teacher{plain.format.suffix}")
    exported = _export(bench, plain.format, folder / plain.file)
    _add(bench, subjects["teacher"], plain, folder)
    on_step("make the teacher as the student is served, to time it")
    _add_as_served(bench, subjects["teacher"], exported, plain.format)
    if bench.baseline is not None:
        on_step("the baseline answers the test rows")
        subjects["baseline"] = _subject(bench, bench.baseline)
    on_step("the student and its exported files answer the test rows")
    subjects["student"] = _subject(bench, bench.student)
    _add_exports(bench, subjects)
    subjects |= further_subjects(bench, subjects["teacher"], subjects["student"])
    for file in plain.format.files(exported):
        file.unlink()
    return subjects


def _export(bench: Bench, form: Format, path: Path) -> Path:
    """The teacher in a format."""
    model = bench.teacher.model
    example, axes = example_of(bench.teacher, model, batch=2), bench.rows.task.dynamic_axes(model)
    return form.export(model, path, example_inputs=example, dynamic_axes=axes).path


def _add_as_served(bench: Bench, teacher: Subject, exported: Path, form: Format) -> None:
    """The teacher made in the way that was chosen for the student, for its times alone: few rows calibrate it."""
    kept, target = kept_in(bench.export_facts).get("served"), bench.target
    if kept is None or not target.is_here or f"{kept.format.runtime}-{kept.precision.name}" in teacher.runners:
        return
    way, party = way_named(kept.name), bench.teacher
    if teacher.bytes > LARGEST_AS_SERVED:
        teacher.not_as_served = f"a teacher of more than {LARGEST_AS_SERVED / 1e9:.0f} GB is not made as {way.name}"
        return
    source = exported if way.reads == form.name else _export(bench, format_named(way.reads), exported.with_suffix(".source"))
    rows = sample_batches(party.encoded("train"), party.collator, sizes=(8,), num_batches=2, seed=bench.options.seed)[8]
    try:
        path = way.make(source, exported.with_name(f"teacher.{way.file}"), rows)
    except Exception as error:
        logger.info("the teacher cannot be made as %s: %s", way.name, error)
        teacher.not_as_served = f"{way.name} failed on the teacher: {first_line(error)[:200]}"
        return
    precision = kept.precision.name
    opened = partial(kept.format.open, path, precision=precision, device=target.device)
    teacher.as_served = _best_threads(bench, party, lambda threads: opened(threads=threads))
    for file in kept.format.files(path):
        file.unlink()


def _subject(bench: Bench, party: Party, answers: Predictions | None = None) -> Subject:
    """A model in PyTorch: timed on the target's device, where it stays; it answers the test rows on a GPU if there is one."""
    model = party.model
    model.to(bench.target.usable_device)
    spent = cost_of(party)
    runner = _best_threads(bench, party, lambda threads: TorchRunner(model, threads=threads))
    if answers is None:
        with placed(model):
            whole = runner if compute_device() == device_of(model) else TorchRunner(model)
            answers = predict(whole, party.encoded("test"), party.collator, party.rows.answers)
    sizes = {"safetensors": spent.bytes}
    runners = {runner.name: runner} if bench.target.is_here else {}
    return Subject(answers, runners, spent.parameters, spent.bytes, spent.flops, sizes, party)


def _add_exports(bench: Bench, subjects: dict[str, Subject]) -> None:
    exports, student, party, target = bench.exports, subjects["student"], bench.student, bench.target
    _add(bench, student, plain_in(bench.export_facts), exports)
    for kept in kept_in(bench.export_facts).values():
        runner, size = kept.open(exports, device=target.usable_device), kept.bytes(exports)
        answers = predict(runner, party.encoded("test"), party.collator, party.rows.answers)
        runners, sizes = {runner.name: runner} if target.is_here else {}, {runner.name: size}
        subjects[kept.model_name] = Subject(answers, runners, student.parameters, size, student.flops, sizes, party)


def _add(bench: Bench, subject: Subject, plain: Kept, folder: Path) -> None:
    """The model as its exported file, timed too where the target is here."""
    target = bench.target
    subject.formats[f"{plain.format.name}-{plain.precision.name}"] = plain.bytes(folder)
    if target.is_here:
        runner = _best_threads(bench, subject.party, lambda threads: plain.open(folder, threads=threads, device=target.device))
        subject.runners[runner.name] = runner


def _best_threads(bench: Bench, party: Party, make: Callable[[int], Runner]) -> Runner:
    """The runner with the thread count that answers one row fastest; the teacher gets the same choice as the student."""
    if not bench.target.is_here:
        return make(num_cores())
    runners = {str(count): make(count) for count in bench.target.thread_counts()}
    inputs = sample_batches(party.encoded("test"), party.collator, sizes=(1,), num_batches=8, seed=bench.options.seed)[1]
    timings = time_interleaved(runners, inputs, repeats=4, warm_up=1, seconds=4.0)
    return runners[min(timings, key=lambda count: timings[count].p50)]


@dataclass(frozen=True)
class Speed:
    """What timing found.

    Args:
        times: Model → runtime-precision → batch size → times.
        joules: Runner → joules per row; None with a reason.
        load: The machine: other work at its most, the load average before, and what was lost meanwhile.
        seconds: How long timing took.
    """

    times: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    joules: Mapping[str, float] | None = None
    reason: str | None = None
    load: Load = field(default_factory=Load)
    seconds: float = 0.0


def measure_speed(bench: Bench, subjects: Mapping[str, Subject]) -> Speed:
    """Latency of every runner of every model, interleaved, on the same rows; and energy where it can be read."""
    if not bench.target.is_here:
        return Speed(reason=f"not measured: {bench.target.absent()}")
    options = bench.options
    sizes = tuple(options.evaluate.batch_sizes)
    timed = {name: subject for name, subject in subjects.items() if name != "baseline" and subject.runners}
    inputs = {
        id(party): sample_batches(
            party.encoded("test"), party.collator, sizes=sizes, num_batches=LATENCY_BATCHES, seed=options.seed
        )
        for party in {id(subject.party): subject.party for subject in timed.values()}.values()
    }
    runners: dict[str, Runner] = {}
    for name, subject in timed.items():
        if subject.as_served is not None:
            runners[f"{AS_SERVED} {subject.as_served.name}"] = _Fed(subject.as_served, inputs[id(subject.party)])
        runners |= {f"{name} {way}": _Fed(runner, inputs[id(subject.party)]) for way, runner in subject.runners.items()}
    numbered = {size: [{"size": size, "index": index} for index in range(LATENCY_BATCHES)] for size in sizes}
    repeats = max(1, round(options.evaluate.repeats / LATENCY_BATCHES))
    before, started = machine_load(), time.perf_counter()
    times = latency(runners, numbered, repeats=repeats, warm_up=1, seconds=SECONDS_PER_SIZE)
    seconds, after = time.perf_counter() - started, machine_load()
    table: dict[str, dict[str, Any]] = {}
    for key, by_size in times.items():
        name, way = key.split(" ", 1)
        table.setdefault(name, {})[way] = by_size
    joules, reason = _energy(runners, numbered[sizes[0]])
    return Speed(table, joules, reason, _between(before, after), seconds)


def _between(before: Load, after: Load) -> Load:
    """The larger queue, the average before, and what was lost from one moment to the other."""
    queues = [one.other_work for one in (before, after) if one.other_work is not None]
    return Load(
        max(queues, default=None),
        before.average,
        _less(after.throttled_seconds, before.throttled_seconds),
        _less(after.heat_events, before.heat_events),
    )


def _less(after: Any, before: Any) -> Any:
    return None if after is None or before is None else after - before


class _Fed:
    """A runner that takes the batch of a number, so that models with different tokens are timed on the same rows."""

    def __init__(self, runner: Runner, inputs: Mapping[int, list[Any]]) -> None:
        self.runner, self.inputs = runner, inputs
        self.name, self.precision, self.bytes, self.threads = runner.name, runner.precision, runner.bytes, runner.threads

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Answer the batch of that number."""
        return self.runner.run(self.inputs[inputs["size"]][inputs["index"]])


def _energy(runners: Mapping[str, Runner], numbered: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float] | None, str | None]:
    joules: dict[str, float] = {}
    for key, runner in runners.items():
        spent, reason = measure_energy(lambda runner=runner: [runner.run(batch) for batch in numbered])  # type: ignore[misc]
        if spent is None:
            return None, reason
        joules[key] = spent / sum(int(batch["size"]) for batch in numbered)
    return joules, None


def measure_energy(work: Callable[[], object], *, powercap: Path = POWERCAP) -> tuple[float | None, str]:
    """Joules of the processor packages while `work` is done once; None, and the reason, where they cannot be read.

    Args:
        work: What to do; the energy of everything else on the machine counts too.
    """
    packages, reason = _packages(powercap)
    before = {package: _read(package / "energy_uj") for package in packages}
    work()
    if not packages:
        return None, reason
    used = 0
    for package, start in before.items():
        difference = _read(package / "energy_uj") - start
        if difference < 0:  # the counter began again from zero
            difference += _read(package / "max_energy_range_uj")
        used += difference
    return used / 1e6, ""


def _packages(powercap: Path) -> tuple[list[Path], str]:
    found = sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1) if powercap.exists() else []
    if not found:
        return [], "this machine shows no energy counters (common in virtual machines)"
    try:
        for package in found:
            _read(package / "energy_uj")
            _read(package / "max_energy_range_uj")
    except OSError as error:
        return [], f"the energy counters cannot be read: {error}"
    return found, ""


def _read(path: Path) -> int:
    return int(path.read_text().strip())
