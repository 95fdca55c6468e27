"""From measurements to the one document of a run."""

from __future__ import annotations

import base64
import datetime
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.answers.fidelity import gap_closed
from potstill.answers.judges import Judge, judge_of
from potstill.data.task_rows import blocks_of
from potstill.evaluate.quality import Predictions
from potstill.exports.delivery import kept_in, plain_in
from potstill.ground.hardware import choose_threads, describe, package_versions
from potstill.report.metrics import (
    ClassResult,
    DataSummary,
    Energy,
    Interval,
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
    TrainingPrecision,
    WorstExample,
    history_points,
)
from potstill.report.numbers import SHARES
from potstill.stages.measured_model import reference
from potstill.targets import target_named

if TYPE_CHECKING:
    from potstill.recipe.model import OneTeacherRecipe
    from potstill.stages.context import Run

FEW_TEST_ROWS = 200
THUMBNAIL = 96
_SHAPE_KEYS = (
    "model_type", "num_hidden_layers", "n_layers", "depths", "hidden_size", "dim", "hidden_sizes", "embedding_size",
    "num_attention_heads", "n_heads", "intermediate_size", "hidden_dim", "vocab_size", "image_size", "patch_size",
)  # fmt: skip


def assemble(
    run: Run,
    models: Mapping[str, ModelFigures],
    answers: Mapping[str, Predictions],
    insides: LayerSimilarity | None,
    energy: Energy,
) -> Metrics:
    """Put everything that was measured into one document.

    Args:
        run: The run.
        models: Figures of each model.
        answers: Its answers on the test rows, in the same order for all.
        insides: Similarity of layers and attention, where there are any.
        energy: Energy per row, or why there is none.
    """
    metric, judge = run.metric, judge_of(run.task)
    student, teacher, compared = models["student"], models["teacher"], models[reference(models)]
    baseline = models.get("baseline")
    planned = run.facts("work/student")["plan"]
    served, trained = served_name(run, models), _trained(run)
    return Metrics(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        task=run.task.name,
        metric=metric,
        teacher=" + ".join(one.model for one in _teachers(run)),
        command=f"potstill distill {run.folder / 'recipe.yaml'}",
        ratio=Ratio(
            asked=None if run.recipe.student.model else planned["ratio_asked"],
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
        confidence=_confidence(judge, answers, metric),
        answers=run.answers.kind,
        tasks=_tasks(run),
        quantization=_quantization(run),
        plan=_plan(run, planned),
        layers=insides,
        per_class=_per_class(run, answers),
        worst_examples=_worst(run, judge, answers),
        history={name: history_points(facts["history"]) for name, facts in trained.items()},
        precision={name: TrainingPrecision(**facts["precision"]) for name, facts in trained.items() if "precision" in facts},
        calibration={name: bins for name, found in answers.items() if (bins := _bins(judge, found))},
        energy=energy,
        data=_data(run),
        machine=_machine(),
        target=_target(run),
        versions=package_versions(),
        seeds={"run": run.recipe.seed},
        files=_files(run),
        warnings=_warnings(run, answers),
    )


def _teachers(run: Run) -> Sequence[OneTeacherRecipe]:
    return [one.teacher for one in run.recipe.tasks.values()] or run.recipe.teacher.all


def _tasks(run: Run) -> dict[str, list[str]]:
    """Task → its classes in the order of the logits; empty where there is one task."""
    if not run.recipe.tasks:
        return {}
    return {task: list(run.label_names[start:stop]) for task, (start, stop) in blocks_of(run.label_names).items()}


def served_name(run: Run, models: Mapping[str, ModelFigures]) -> str:
    """The model that `quantize` chose to be served."""
    kept = kept_in(run.facts("export")).get("served")
    return kept.model_name if kept is not None and kept.model_name in models else "student"


def _confidence(judge: Judge, answers: Mapping[str, Predictions], metric: str) -> dict[str, Interval]:
    compared = {**answers, "teacher": answers[reference(answers)]}
    found = judge.intervals(compared, metric)
    return {name: Interval(low=one.low, high=one.high, level=one.confidence) for name, one in found.items()}


def _quantization(run: Run) -> Quantization | None:
    facts = run.facts("export")
    if "tries" not in facts:
        return None
    keys = ("name", "runtime", "precision", "path", "bytes", "metric", "drop", "p50_ms", "accepted", "reason")
    tries = [QuantizationTry(**{key: one[key] for key in keys}) for one in facts["tries"]]
    return Quantization(chosen=facts["chosen"], reason=facts["reason"], max_drop=facts["max_drop"], candidates=tries)


def _plan(run: Run, planned: Mapping[str, Any]) -> PlanSummary:
    teacher = run.teacher.model.config.to_dict()
    vocabulary = run.facts("work/student").get("vocabulary")
    notes = list(planned["notes"])
    if vocabulary:
        notes.append(f"{vocabulary['tokens']:,} tokens cover {vocabulary['coverage']:.2%} of the training text")
    return PlanSummary(
        teacher=_shape(teacher), student=_shape(planned["config"]), layers_kept=list(planned["layers"]), notes=notes
    )


def _shape(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in _SHAPE_KEYS if config.get(key) is not None}


def _per_class(run: Run, answers: Mapping[str, Predictions]) -> list[ClassResult]:
    by_model = {name: run.task.per_class(found.logits, found.labels) for name, found in answers.items()}
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
        for index, label in enumerate(run.label_names)
    ]


def _worst(run: Run, judge: Judge, answers: Mapping[str, Predictions]) -> list[WorstExample]:
    """Test rows on which the student does much worse than the teacher."""
    teacher, student = answers[reference(answers)], answers["student"]
    place = {int(row_id): index for index, row_id in enumerate(teacher.row_ids)}
    order = np.array([place[int(row_id)] for row_id in student.row_ids])
    aligned = teacher._replace(**{name: value[order] for name, value in teacher._asdict().items() if value is not None})
    split = run.split("test")
    where = {int(row_id): index for index, row_id in enumerate(split["row_id"])}
    return [
        WorstExample(**_shown(run, split[where[one.row_id]]), **one._asdict())
        for one in judge.worst(student, aligned, run.label_names, run.recipe.evaluate.worst_examples)
    ]


def _shown(run: Run, row: Mapping[str, Any]) -> dict[str, str]:
    if run.task.modality == "text":
        return {"text": run.task.text_of(row)}
    from PIL import Image

    image = row["image"].convert("RGB")
    if max(image.size) < THUMBNAIL // 2:
        factor = THUMBNAIL // (2 * max(image.size)) or 1
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"image_png_base64": base64.b64encode(buffer.getvalue()).decode()}


def _trained(run: Run) -> dict[str, Mapping[str, Any]]:
    """Stage of training → its facts: what was logged, and what it computed in."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, folder in (("teach", "teacher"), ("baseline", "work/baseline"), ("distill", "student")):
        if (run.folder / folder / "facts.json").is_file():
            facts = run.facts(folder)
            stages = facts.get("stages") or []
            found |= {f"{name}: {one['name']}": one for one in stages} if len(stages) > 1 else {name: (stages or [facts])[0]}
    return found


def _bins(judge: Judge, found: Predictions) -> list[ReliabilityBin]:
    curve = judge.calibration(found)
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


def _data(run: Run) -> DataSummary:
    facts = run.facts("work/data")
    rows = dict(facts["rows"])
    if run.has("augmented"):
        rows["augmented"] = len(run.split("augmented"))
    tokens: dict[str, float | None] = {}
    if run.task.modality == "text":
        lengths = run.teacher_rows("train").lengths
        tokens = {"p50": float(np.percentile(lengths, 50)), "p95": float(np.percentile(lengths, 95)), "max": float(lengths.max())}
    sources = [one.data.source for one in run.recipe.tasks.values()] or [run.recipe.data.source]
    return DataSummary(
        source=" + ".join(sources), rows=rows, label_names=facts["label_names"], tokens=tokens, notes=facts["notes"]
    )


def _target(run: Run) -> TargetSummary:
    target = target_named(run.recipe.target)
    reason = target.absent()
    return TargetSummary(
        name=target.name,
        title=target.title,
        verdict="converted" if reason else "measured here",
        hardware=None if reason else target.describe(),
        note=reason or None,
    )


def _machine() -> Machine:
    found = describe(look_for_gpus=True)
    return Machine(
        system=found.system,
        cpu=f"{found.cpu} ({', '.join(found.flags)})" if found.flags else found.cpu,
        cores=found.usable_cores,
        threads=choose_threads(),
        memory_bytes=found.ram_bytes,
        accelerator=", ".join(found.gpus) or None,
    )


def _files(run: Run) -> dict[str, str]:
    facts = run.facts("export")
    plain = plain_in(facts)
    files = {"student": "student", plain.format.name: f"export/{plain.file}"}
    return files | {f"{one.format.name}-{one.precision.name}": f"export/{one.file}" for one in kept_in(facts).values()}


def _warnings(run: Run, answers: Mapping[str, Predictions]) -> list[str]:
    found = []
    rows = len(answers["student"].labels)
    if rows < FEW_TEST_ROWS and run.metric not in SHARES:  # of shares the page itself says how large chance is
        found.append(f"the test split has {rows} rows only: differences of a few points may be chance")
    if run.recipe.teacher.others:
        found.append(
            "retention, agreement, WDSR, mean KL and the gap are against all teachers together (ensemble);"
            " size, speed and ratio are against the first one"
        )
    if run.recipe.tasks:
        found.append(
            f"the teacher's quality is that of each row's own teacher; its size and speed, and the ratio, are those of the first,"
            f" of {next(iter(run.recipe.tasks))}; layers are compared with that one"
        )
    if not run.recipe.baseline:
        found.append("no baseline was trained, so this report cannot tell what distillation gained; set baseline: true")
    return found
