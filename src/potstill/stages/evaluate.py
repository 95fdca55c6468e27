"""Stage `evaluate`: everything measured on the test split, written down once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.data.run_rows import read_facts
from potstill.evaluate.measure import gather, measure_speed
from potstill.evaluate.measured_model import Bench, MeasureOptions, reference
from potstill.report.assemble import assemble, figures_of, note_speed
from potstill.report.doubts import doubts
from potstill.report.layer_comparison import compare_layers
from potstill.report.metrics import Energy


def evaluate(given: Given, options: MeasureOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Measure teacher, baseline, student and the quantized student, and write the figures."""
    bench = _bench(given, options)
    subjects = gather(bench, folder, observer.stage_step)
    observer.stage_step("time every model, one call of each in turn")
    speed = measure_speed(bench, subjects)
    observer.stage_step("compare the layers, and draw rows for intervals")
    energy = Energy(reason=speed.reason) if speed.joules is None else Energy(joules_per_row=dict(speed.joules))
    teacher = subjects[reference(subjects)].answers
    models = {name: figures_of(bench.rows, subject, teacher, speed.times.get(name, {})) for name, subject in subjects.items()}
    layers = compare_layers(bench.student, bench.teacher, options.evaluate.similarity_rows, options.seed)
    metrics = assemble(bench, models, {name: subject.answers for name, subject in subjects.items()}, layers, energy)
    note_speed(metrics, speed, subjects["teacher"])
    metrics.warnings += [doubt.en for doubt in doubts(metrics)]
    metrics.write(folder / "metrics.json")
    return []


def _bench(given: Given, options: MeasureOptions) -> Bench:
    exports: Path = given.export
    places = [given.student.folder, *(model.folder.parent for model in list(given.chain.values())[:1])]
    shares = (read_facts(place).get("teacher_weights") for place in places)  # a chain's first model alone reads the teachers
    return Bench(
        options=options,
        rows=given.rows,
        teacher=given.teacher,
        teachers=given.teachers,
        student=given.student,
        baseline=given.baseline if options.has_baseline else None,
        chain=given.chain,
        exports=exports,
        export_facts=read_facts(exports),
        learned_shares=next((found for found in shares if found), None),
    )
