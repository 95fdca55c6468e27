"""Stages `evaluate` and `report`: everything measured on the test split, written down once, shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.answers.fidelity import retention
from potstill.answers.judges import judge_of
from potstill.contracts.runner import Runner
from potstill.errors import MissingExtra
from potstill.evaluate.cost import cost
from potstill.evaluate.energy import measure_energy
from potstill.evaluate.quality import Predictions, predict, sample_batches
from potstill.exports.delivery import Kept, kept_in, plain_in
from potstill.exports.runtimes import TorchRunner, num_cores
from potstill.exports.timing import Timing, latency, time_interleaved
from potstill.ground.devices import compute_device, device_of, placed
from potstill.report.metrics import Energy, Latency, Metrics, ModelFigures
from potstill.stages.assemble import assemble
from potstill.stages.further_models import further_subjects
from potstill.stages.layer_comparison import compare_insides
from potstill.stages.measured_model import Subject, reference
from potstill.stages.several_tasks import joint_answers
from potstill.stages.student import load_student
from potstill.targets import target_named

if TYPE_CHECKING:
    from potstill.stages.context import Run

LATENCY_BATCHES = 16
SECONDS_PER_SIZE = 12.0


def evaluate(run: Run, folder: Path) -> Sequence[str]:
    """Measure teacher, baseline, student and the quantized student, and write the figures."""
    subjects = gather(run, folder)
    speeds, energy = measure_speed(run, subjects)
    teacher = subjects[reference(subjects)].answers
    models = {name: figures_of(run, subject, teacher, speeds.get(name, {})) for name, subject in subjects.items()}
    insides = compare_insides(run)
    metrics = assemble(run, models, {name: subject.answers for name, subject in subjects.items()}, insides, energy)
    metrics.write(folder / "metrics.json")
    return []


def write_report(run: Run, folder: Path) -> Sequence[str]:
    """Write the page, the TensorBoard files and the model card."""
    metrics = Metrics.read(run.folder / "work/evaluate/metrics.json")
    return render_report(run.folder, folder, with_stage_seconds(run, metrics))


def with_stage_seconds(run: Run, metrics: Metrics) -> Metrics:
    """The figures with the wall seconds of every stage of this run."""
    return metrics.model_copy(
        update={"stages": {name: result.seconds for name, result in run.results.items() if result.seconds > 0}}
    )


def render_report(output: Path, folder: Path, metrics: Metrics) -> list[str]:
    """Write everything that shows the figures.

    Args:
        output: The output folder; receives the model card.
        folder: Receives the page and the TensorBoard files.
        metrics: The figures.
    """
    from potstill.report.card import write_card
    from potstill.report.page import render
    from potstill.report.tensorboard import write_tensorboard

    render(metrics, folder)
    write_card(metrics, output)
    try:
        write_tensorboard(metrics, folder / "tensorboard")
    except MissingExtra as missing:
        return [str(missing)]
    return []


def gather(run: Run, folder: Path) -> dict[str, Subject]:
    """Every model of the run with its answers on the test split and its runners."""
    teacher = run.teacher
    known = joint_answers(run, "test") if run.recipe.tasks else None
    subjects = {"teacher": _subject(run, teacher.model, teacher.processor, "teacher", known)}
    plain = plain_in(run.facts("export"))
    plain = replace(plain, file=f"teacher{plain.format.suffix}")
    exported = plain.format.export(
        teacher.model,
        folder / plain.file,
        example_inputs=_example(run, teacher.model, "teacher", batch=2),
        dynamic_axes=run.task.dynamic_axes(teacher.model),
    )
    _add(run, subjects["teacher"], plain, folder)
    if run.recipe.baseline:
        model, processor = load_student(run, run.folder / "work/baseline/model")
        subjects["baseline"] = _subject(run, model, processor, "student")
    model, processor = load_student(run, run.folder / "student")
    subjects["student"] = _subject(run, model, processor, "student")
    _add_exports(run, subjects, processor)
    subjects |= further_subjects(run, subjects["teacher"], subjects["student"])
    for file in plain.format.files(exported.path):
        file.unlink()
    return subjects


def _subject(run: Run, model: Any, processor: Any, sees: str, answers: Predictions | None = None) -> Subject:
    """A model in PyTorch: it is timed on the target's device, where it stays, and answers the test rows on a GPU if there is one.

    Args:
        run: The run.
        model: The model.
        processor: Its tokenizer or image processor.
        sees: Whose tokens it reads.
        answers: What is answered in its name, where that is known already.
    """
    target = target_named(run.recipe.target)
    model.to(target.usable_device)
    rows = _rows(run, sees)
    middle = int(np.median(rows.lengths)) if run.task.modality == "text" else None
    spent = cost(model, _example(run, model, sees, batch=1, tokens=middle))
    runner = _best_threads(run, sees, lambda threads: TorchRunner(model, threads=threads))
    if answers is None:
        with placed(model):
            whole = runner if compute_device() == device_of(model) else TorchRunner(model)
            answers = predict(whole, rows, run.task.collator(processor))
    runners = {runner.name: runner} if target.is_here else {}
    return Subject(answers, runners, spent.parameters, spent.bytes, spent.flops, {"safetensors": spent.bytes}, sees)


def _add_exports(run: Run, subjects: dict[str, Subject], processor: Any) -> None:
    exports, student, facts = run.folder / "export", subjects["student"], run.facts("export")
    target = target_named(run.recipe.target)
    _add(run, student, plain_in(facts), exports)
    for kept in kept_in(facts).values():
        runner, size = kept.open(exports, device=target.usable_device), kept.bytes(exports)
        answers = predict(runner, _rows(run, "student"), run.task.collator(processor))
        runners = {runner.name: runner} if target.is_here else {}
        subjects[kept.model_name] = Subject(
            answers, runners, student.parameters, size, student.flops, {runner.name: size}, "student"
        )


def _add(run: Run, subject: Subject, plain: Kept, folder: Path) -> None:
    """The model as its exported file, timed too where the target is here."""
    target = target_named(run.recipe.target)
    subject.formats[f"{plain.format.name}-{plain.precision.name}"] = plain.bytes(folder)
    if target.is_here:
        runner = _best_threads(run, subject.sees, lambda threads: plain.open(folder, threads=threads, device=target.device))
        subject.runners[runner.name] = runner


def _example(run: Run, model: Any, sees: str, *, batch: int, tokens: int | None = None) -> Any:
    """Inputs as the model reads them; teacher and student may read images of other sizes."""
    if run.task.modality == "image":
        height, width = _rows(run, sees)[0]["pixel_values"].shape[-2:]
        run.task.image_size = (int(height), int(width))  # type: ignore[attr-defined]
    return run.task.example_inputs(model, batch=batch, tokens=tokens)


def _rows(run: Run, sees: str) -> Any:
    return run.teacher_rows("test") if sees == "teacher" else run.student_rows("test")


def _collator(run: Run, sees: str) -> Callable[..., Any]:
    if sees == "teacher":
        return run.task.collator(run.teacher.processor)
    return run.task.collator(load_student(run, run.folder / "student")[1])


def _best_threads(run: Run, sees: str, make: Callable[[int], Runner]) -> Runner:
    """The runner with the thread count that answers one row fastest; the teacher gets the same choice as the student."""
    target = target_named(run.recipe.target)
    if not target.is_here:
        return make(num_cores())
    runners = {str(count): make(count) for count in target.thread_counts()}
    inputs = sample_batches(_rows(run, sees), _collator(run, sees), sizes=(1,), num_batches=8, seed=run.recipe.seed)[1]
    timings = time_interleaved(runners, inputs, repeats=4, warm_up=1, seconds=4.0)
    return runners[min(timings, key=lambda count: timings[count].p50)]


def measure_speed(run: Run, subjects: Mapping[str, Subject]) -> tuple[dict[str, dict[str, Any]], Energy]:
    """Latency of every runner of every model, interleaved, on the same rows; and energy where it can be read.

    Returns:
        Model → runtime-precision → batch size → times; energy per row.
    """
    target = target_named(run.recipe.target)
    if not target.is_here:
        return {}, Energy(reason=f"not measured: {target.absent()}")
    sizes = tuple(run.recipe.evaluate.batch_sizes)
    inputs = {
        sees: sample_batches(
            _rows(run, sees), _collator(run, sees), sizes=sizes, num_batches=LATENCY_BATCHES, seed=run.recipe.seed
        )
        for sees in {subject.sees for subject in subjects.values()}
    }
    runners: dict[str, Runner] = {}
    for name, subject in subjects.items():
        if name != "baseline":
            runners |= {f"{name} {way}": _Fed(runner, inputs[subject.sees]) for way, runner in subject.runners.items()}
    numbered = {size: [{"size": size, "index": index} for index in range(LATENCY_BATCHES)] for size in sizes}
    repeats = max(1, round(run.recipe.evaluate.repeats / LATENCY_BATCHES))
    times = latency(runners, numbered, repeats=repeats, warm_up=1, seconds=SECONDS_PER_SIZE)
    table: dict[str, dict[str, Any]] = {}
    for key, by_size in times.items():
        name, way = key.split(" ", 1)
        table.setdefault(name, {})[way] = by_size
    return table, _energy(runners, numbered[sizes[0]])


class _Fed:
    """A runner that takes batches by their number, so that models with different tokens are timed on the same rows."""

    def __init__(self, runner: Runner, inputs: Mapping[int, list[Any]]) -> None:
        self.runner, self.inputs = runner, inputs
        self.name, self.precision, self.bytes, self.threads = runner.name, runner.precision, runner.bytes, runner.threads

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Answer the batch of that number."""
        return self.runner.run(self.inputs[inputs["size"]][inputs["index"]])


def _energy(runners: Mapping[str, Runner], numbered: Sequence[Mapping[str, Any]]) -> Energy:
    joules: dict[str, float | None] = {}
    for key, runner in runners.items():
        spent = measure_energy(lambda runner=runner: [runner.run(batch) for batch in numbered])  # type: ignore[misc]
        if spent.joules is None:
            return Energy(reason=spent.reason)
        joules[key] = spent.joules / sum(int(batch["size"]) for batch in numbered)
    return Energy(joules_per_row=joules)


def quality_of(run: Run, answers: Predictions, teacher: Predictions) -> dict[str, float]:
    """The task's measures of a model's answers, where a measure needs them against the teacher's."""
    found = dict(run.task.quality(answers.logits, answers.labels, teacher=teacher.logits))
    by_text = getattr(run.task, "text_quality", None)
    return found if by_text is None else found | by_text(answers, run.split("test"))


def figures_of(run: Run, subject: Subject, teacher: Predictions, speeds: Mapping[str, Any]) -> ModelFigures:
    """The figures of one model."""
    judge, answers = judge_of(run.task), subject.answers
    quality, theirs = quality_of(run, answers, teacher), quality_of(run, teacher, teacher)
    close, calibration = judge.closeness(answers, teacher), judge.calibration(answers)
    return ModelFigures(
        quality=dict(quality),
        parameters=subject.parameters,
        bytes=subject.bytes,
        formats=dict(subject.formats),
        flops=subject.flops,
        ece=None if calibration is None else calibration.ece,
        retention=retention(quality[run.metric], theirs[run.metric]),
        agreement=close.agreement,
        wdsr=close.wdsr,
        mean_kl_nats=close.mean_kl_nats,
        closeness=dict(close.others),
        latency_ms={way: {str(size): _percentiles(one) for size, one in times.items()} for way, times in speeds.items()},
        throughput={way: {str(size): one.rows_per_second(size) for size, one in times.items()} for way, times in speeds.items()},
    )


def _percentiles(one: Timing) -> Latency:
    return Latency(p50=one.p50, p95=one.percentile(95), p99=one.percentile(99))
