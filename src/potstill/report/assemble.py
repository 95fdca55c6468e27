"""From measurements to the one document of a run."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np

from potstill.answers.fidelity import gap_closed, retention
from potstill.answers.judging import intervals, judged
from potstill.contracts.answers import Judge, Predictions
from potstill.contracts.target import Target
from potstill.data.run_rows import Rows, read_facts
from potstill.data.task_rows import blocks_of
from potstill.evaluate.measure import AS_SERVED, Speed
from potstill.evaluate.measured_model import Bench, Subject, reference
from potstill.exports.delivery import kept_in, plain_in
from potstill.exports.timing import Timing
from potstill.ground.counted import counted
from potstill.ground.hardware import choose_threads, describe, package_versions
from potstill.report.loading import loading_of
from potstill.report.metrics import (
    ClassResult,
    DataSummary,
    Energy,
    Interval,
    Latency,
    LayerSimilarity,
    Machine,
    Metrics,
    ModelFigures,
    PlanSummary,
    Quantization,
    QuantizationTry,
    Ratio,
    ReliabilityBin,
    TargetSummary,
    TeacherAsServed,
    TrainingPrecision,
    WorstExample,
    history_points,
)
from potstill.report.numbers import SHARES

FEW_TEST_ROWS = 200
_SHAPE_KEYS = (
    "model_type", "num_hidden_layers", "n_layers", "depths", "hidden_size", "dim", "hidden_sizes", "embedding_size",
    "num_attention_heads", "n_heads", "intermediate_size", "hidden_dim", "vocab_size", "image_size", "patch_size",
)  # fmt: skip


def assemble(
    bench: Bench,
    models: Mapping[str, ModelFigures],
    answers: Mapping[str, Predictions],
    insides: LayerSimilarity | None,
    energy: Energy,
) -> Metrics:
    """Put everything that was measured into one document."""
    rows, options = bench.rows, bench.options
    metric, judges = rows.metric, _judges(rows, answers)
    student, teacher, compared = models["student"], models["teacher"], models[reference(models)]
    baseline = models.get("baseline")
    planned = bench.student.facts["plan"]
    served, trained = served_name(bench, models), _trained(bench)
    return Metrics(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        task=rows.task.name,
        metric=metric,
        teacher=" + ".join(options.teachers),
        command=f"potstill distill {options.recipe_file}",
        ratio=Ratio(
            asked=planned["ratio_asked"] if options.has_ratio else None,
            achieved=1 - (student.parameters or 0) / (teacher.parameters or 1),
        ),
        retention=student.retention,
        gap_closed=None
        if baseline is None
        else gap_closed(student.quality[metric] or 0.0, baseline.quality[metric] or 0.0, compared.quality[metric] or 0.0),
        agreement=student.agreement,
        wdsr=student.wdsr,
        mean_kl_nats=student.mean_kl_nats,
        models=dict(models),
        served=served,
        confidence=_confidence(rows, judges, answers),
        answers=rows.answers.reported,
        tasks=_tasks(bench),
        quantization=_quantization(bench),
        plan=_plan(bench, planned),
        layers=insides,
        per_class=_per_class(bench, judges),
        worst_examples=_worst(bench, judges["student"]),
        history={name: history_points(facts["history"]) for name, facts in trained.items()},
        kept_steps={name: int(facts["best"]["step"]) for name, facts in trained.items() if (facts.get("best") or {}).get("step")},
        precision={name: TrainingPrecision(**facts["precision"]) for name, facts in trained.items() if "precision" in facts},
        calibration={name: bins for name, judge in judges.items() if (bins := _bins(judge))},
        energy=energy,
        data=_data(bench),
        machine=machine_facts(),
        target=_target(bench.target),
        versions=package_versions(),
        seeds={"run": options.seed},
        loading=loading_of(bench),
        files=_files(bench),
        warnings=_warnings(bench, answers),
    )


def _tasks(bench: Bench) -> dict[str, list[str]]:
    """Task → its classes in the order of the logits; empty where there is one task."""
    if not bench.options.tasks:
        return {}
    names = bench.rows.label_names
    return {task: list(names[start:stop]) for task, (start, stop) in blocks_of(names).items()}


def served_name(bench: Bench, models: Mapping[str, ModelFigures]) -> str:
    """The model that `quantize` chose to be served."""
    kept = kept_in(bench.export_facts).get("served")
    return kept.model_name if kept is not None and kept.model_name in models else "student"


def _judges(rows: Rows, answers: Mapping[str, Predictions]) -> dict[str, Judge]:
    """Of each model, against the teacher that it is compared with."""
    teacher = answers[reference(answers)]
    place = {int(row_id): index for index, row_id in enumerate(teacher.row_ids)}
    found = {}
    for name, own in answers.items():
        order = np.array([place[int(row_id)] for row_id in own.row_ids])
        aligned = teacher._replace(**{key: value[order] for key, value in teacher._asdict().items() if value is not None})
        found[name] = judged(rows.answers.judge(), own, aligned)
    return found


def _confidence(rows: Rows, judges: Mapping[str, Judge], answers: Mapping[str, Predictions]) -> dict[str, Interval]:
    """Of every model; a teacher among others stands for the model that students are compared with."""
    compared = {**answers, "teacher": answers[reference(answers)]}
    texts = {name: rows.answers.text_scores(one, rows.split("test")).get(rows.metric) for name, one in compared.items()}
    scores = {name: one for name, one in texts.items() if one is not None}
    found = intervals({**judges, "teacher": judges[reference(judges)]}, rows.metric, scores=scores)
    return {name: Interval(low=one.low, high=one.high, level=one.confidence) for name, one in found.items()}


def _quantization(bench: Bench) -> Quantization | None:
    facts = bench.export_facts
    if "tries" not in facts:
        return None
    keys = ("name", "runtime", "precision", "path", "bytes", "metric", "drop", "p50_ms", "accepted", "reason")
    tries = [QuantizationTry(**{key: one[key] for key in keys}) for one in facts["tries"]]
    return Quantization(
        chosen=facts.get("chosen"), reason=facts.get("reason", ""), max_drop=facts.get("max_drop"), candidates=tries
    )


def _plan(bench: Bench, planned: Mapping[str, Any]) -> PlanSummary:
    teacher = bench.teacher.model.config.to_dict()
    vocabulary = bench.student.facts.get("vocabulary")
    notes = list(planned["notes"])
    if vocabulary:
        notes.append(f"{vocabulary['tokens']:,} tokens cover {vocabulary['coverage']:.2%} of the training text")
    return PlanSummary(
        teacher=shape_of(teacher), student=shape_of(planned["config"]), layers_kept=list(planned["layers"]), notes=notes
    )


def shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a network, out of its configuration."""
    return {key: config[key] for key in _SHAPE_KEYS if config.get(key) is not None}


def _per_class(bench: Bench, judges: Mapping[str, Judge]) -> list[ClassResult]:
    by_model = {name: judge.per_class() for name, judge in judges.items()}
    teacher = by_model["teacher"]
    if not teacher:
        return []
    return [
        ClassResult(
            label=label,
            rows=teacher[index]["support"],
            recall={name: classes[index]["recall"] for name, classes in by_model.items()},
            f1={name: classes[index]["f1"] for name, classes in by_model.items()},
        )
        for index, label in enumerate(bench.rows.label_names)
    ]


def _worst(bench: Bench, judge: Judge) -> list[WorstExample]:
    """Test rows on which the student does much worse than the teacher."""
    split, modality = bench.rows.split("test"), bench.rows.task.modality
    where = {int(row_id): index for index, row_id in enumerate(split["row_id"])}
    return [
        WorstExample(**modality.shown(split[where[one.row_id]]), **one._asdict())
        for one in judge.worst(bench.rows.label_names, bench.options.evaluate.worst_examples)
    ]


def _trained(bench: Bench) -> dict[str, Mapping[str, Any]]:
    """Phase of training → its facts: what was logged, and what it computed in."""
    found: dict[str, Mapping[str, Any]] = {}
    baseline = [] if bench.baseline is None else [("baseline", bench.baseline.folder.parent)]
    for name, folder in (("teach", bench.teacher.folder), *baseline, ("distill", bench.student.folder)):
        if (folder / "facts.json").is_file():
            facts = read_facts(folder)
            phases = facts.get("stages") or []
            found |= {f"{name}: {one['name']}": one for one in phases} if len(phases) > 1 else {name: (phases or [facts])[0]}
    return found


def _bins(judge: Judge) -> list[ReliabilityBin]:
    curve = judge.calibration()
    if curve is None:
        return []
    return [
        ReliabilityBin(
            lower=float(curve.edges[index]),
            upper=float(curve.edges[index + 1]),
            confidence=float(curve.confidence[index]),
            accuracy=float(curve.accuracy[index]),
            rows=int(curve.counts[index]),
        )
        for index in range(len(curve.counts))
    ]


def _data(bench: Bench) -> DataSummary:
    facts = bench.rows.facts
    rows = dict(facts["rows"])
    if bench.rows.has("augmented"):
        rows["augmented"] = len(bench.rows.split("augmented"))
    tokens: dict[str, float | None] = {}
    if bench.rows.task.modality.has_tokens:
        lengths = bench.teacher.encoded("train").lengths
        tokens = {"p50": float(np.percentile(lengths, 50)), "p95": float(np.percentile(lengths, 95)), "max": float(lengths.max())}
    return DataSummary(
        source=" + ".join(bench.options.sources), rows=rows, label_names=facts["label_names"], tokens=tokens, notes=facts["notes"]
    )


def _target(target: Target) -> TargetSummary:
    reason = target.absent()
    return TargetSummary(
        name=target.name,
        title=target.title,
        verdict="converted" if reason else "measured here",
        hardware=None if reason else target.describe(),
        note=reason or None,
    )


def machine_facts() -> Machine:
    """The machine that this process runs on."""
    found = describe(look_for_gpus=True)
    return Machine(
        system=found.system,
        cpu=found.processor,
        cores=found.usable_cores,
        all_cores=found.physical_cores or found.logical_cores,
        threads=choose_threads(),
        memory_bytes=found.ram_bytes,
        accelerator=", ".join(found.gpus) or None,
    )


def _files(bench: Bench) -> dict[str, str]:
    plain = plain_in(bench.export_facts)
    files, kept = {"student": "student", plain.format.name: f"export/{plain.file}"}, kept_in(bench.export_facts).values()
    return files | {one.title: f"export/{one.file}" for one in kept}


def _warnings(bench: Bench, answers: Mapping[str, Predictions]) -> list[str]:
    found = list(bench.rows.facts.get("warnings", ()))
    rows = len(answers["student"].labels)
    if rows < FEW_TEST_ROWS and bench.rows.metric not in SHARES:  # of shares the page itself says how large chance is
        found.append(f"the test split has {counted(rows, 'row')} only: differences of a few points may be chance")
    return found


def figures_of(rows: Rows, subject: Subject, teacher: Predictions, speeds: Mapping[str, Any]) -> ModelFigures:
    """The figures of one model."""
    own, their = (judged(rows.answers.judge(), answers, teacher) for answers in (subject.answers, teacher))
    quality, theirs = (
        judge.quality() | rows.answers.text_quality(answers, rows.split("test"))
        for judge, answers in ((own, subject.answers), (their, teacher))
    )
    close, calibration = own.closeness(), own.calibration()
    return ModelFigures(
        quality=dict(quality),
        parameters=subject.parameters,
        bytes=subject.bytes,
        formats=dict(subject.formats),
        flops=subject.flops,
        ece=None if calibration is None else calibration.ece,
        retention=retention(quality[rows.metric], theirs[rows.metric]),
        agreement=close.agreement,
        wdsr=close.wdsr,
        mean_kl_nats=close.mean_kl_nats,
        closeness=dict(close.others),
        latency_ms={way: {str(size): _percentiles(one) for size, one in times.items()} for way, times in speeds.items()},
        throughput={way: {str(size): one.rows_per_second(size) for size, one in times.items()} for way, times in speeds.items()},
    )


def note_speed(metrics: Metrics, speed: Speed, teacher: Subject) -> None:
    """What timing found of the machine, and of the teacher in the form of the student that is served."""
    machine, load = metrics.machine, speed.load
    alone = [
        one.cpu_share for ways in speed.times.values() for times in ways.values() for one in times.values() if one.threads == 1
    ]
    machine.other_work, machine.load_average, machine.heat_events = load.other_work, load.average, load.heat_events
    machine.cpu_share = min(alone, default=None)
    if load.throttled_seconds is not None and speed.seconds:
        machine.throttled_share = load.throttled_seconds / speed.seconds
    if teacher.as_served is not None:
        times = speed.times[AS_SERVED][teacher.as_served.name]
        latencies = {str(size): _percentiles(one) for size, one in times.items()}
        metrics.teacher_as_served = TeacherAsServed(runtime=teacher.as_served.name, latency_ms=latencies)
    elif teacher.not_as_served is not None:
        metrics.teacher_as_served = TeacherAsServed(reason=teacher.not_as_served)


def _percentiles(one: Timing) -> Latency:
    return Latency(p50=one.p50, p95=one.percentile(95), p99=one.percentile(99), cpu_share=one.cpu_share, threads=one.threads)
