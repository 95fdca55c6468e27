"""Headline figures, and the doubts about them."""

from __future__ import annotations

import math

from potstill.contracts.task import TASKS
from potstill.report.metrics import ATTENTION_WARNING, Metrics, ModelFigures
from potstill.report.numbers import SHARES, milliseconds, percent, quality, significant, times
from potstill.report.words import Said, model_name, say

GOOD_RETENTION = 0.95
RATIO_TOLERANCE = 0.0101
FEW_ROWS = 1000
REFERENCE_RUNTIME = "pytorch-fp32"
LEAST_CPU_SHARE = 0.85  # of a single thread; below it something else ran on its core


def served_name(metrics: Metrics) -> str | None:
    """Which model is to be served: the one named, else student-int8, else student."""
    for name in (metrics.served, "student-int8", "student"):
        if name in metrics.models:
            return name
    return None


def fastest(model: ModelFigures, batch: str = "1") -> tuple[str, float] | None:
    """The runtime-precision with the lowest median at this batch size, and that median in milliseconds."""
    medians = {runtime: sizes[batch].p50 for runtime, sizes in model.latency_ms.items() if batch in sizes}
    known = {runtime: value for runtime, value in medians.items() if value is not None}
    return min(known.items(), key=lambda item: item[1]) if known else None


def reference(model: ModelFigures, batch: str = "1") -> tuple[str, float] | None:
    """What speed-ups are counted against: PyTorch fp32 where it was measured, else the model's fastest runtime."""
    measured = model.latency_ms.get(REFERENCE_RUNTIME, {}).get(batch)
    if measured is not None and measured.p50 is not None:
        return REFERENCE_RUNTIME, measured.p50
    return fastest(model, batch)


def teacher_reference(metrics: Metrics) -> tuple[str, float] | None:
    """The teacher's `reference` at batch 1; None without a teacher."""
    return reference(metrics.models["teacher"]) if "teacher" in metrics.models else None


def times_faster(metrics: Metrics, name: str) -> float | None:
    """The teacher's reference median divided by this model's best median; None where either is unknown."""
    teacher, model = teacher_reference(metrics), fastest(metrics.models[name])
    return teacher[1] / model[1] if teacher and model and model[1] > 0 else None


def times_smaller(metrics: Metrics, name: str) -> float | None:
    """The teacher's bytes divided by this model's; None where either is unknown."""
    teacher = metrics.models["teacher"].bytes if "teacher" in metrics.models else None
    model = metrics.models[name].bytes
    return teacher / model if teacher and model else None


def retention_of(metrics: Metrics, name: str) -> float | None:
    """This model's metric divided by the teacher's; None where either is unknown or the teacher's is 0."""
    model = metrics.models[name]
    if model.retention is not None or name == "teacher":
        return model.retention
    if name == "student" and metrics.retention is not None:
        return metrics.retention
    teacher = _metric(metrics, "teacher")
    own = model.quality.get(metrics.metric)
    return own / teacher if own is not None and teacher else None


def doubts(metrics: Metrics) -> list[Said]:
    """Warnings that follow from the figures themselves, in both languages."""
    found = [*_quality_doubts(metrics), *_baseline_doubt(metrics), *_ratio_doubt(metrics), *_attention_doubts(metrics)]
    return found + _row_doubt(metrics) + _target_doubt(metrics) + _load_doubt(metrics) + _reference_doubts(metrics)


def _quality_doubts(metrics: Metrics) -> list[Said]:
    found: list[Said] = []
    kept = retention_of(metrics, "student") if "student" in metrics.models else None
    if kept is not None and kept < GOOD_RETENTION:
        name = model_name("student")
        text = {"value": percent(kept), "metric": metrics.metric}
        found.append(Said(say("warn_retention", name=name.en, **text).en, say("warn_retention", name=name.zh, **text).zh))
    whole, small = _metric(metrics, "student"), _metric(metrics, "student-int8")
    if whole is not None and small is not None and whole - small > 0.01 and metrics.metric in SHARES:
        found.append(say("warn_int8", drop=significant(100 * (whole - small)), metric=metrics.metric))
    return found


def _baseline_doubt(metrics: Metrics) -> list[Said]:
    baseline, student = _metric(metrics, "baseline"), _metric(metrics, "student")
    return [say("warn_baseline")] if baseline is not None and student is not None and baseline >= student else []


def _ratio_doubt(metrics: Metrics) -> list[Said]:
    asked, achieved = metrics.ratio.asked, metrics.ratio.achieved
    if asked is None or achieved is None or abs(asked - achieved) <= RATIO_TOLERANCE:
        return []
    return [say("warn_ratio", asked=percent(asked), achieved=percent(achieved))]


def _attention_doubts(metrics: Metrics) -> list[Said]:
    pairs = metrics.layers.attention if metrics.layers else []
    return [
        say(
            "warn_attention",
            teacher=pair.teacher_layer,
            student=pair.student_layer,
            value=f"{pair.jsd:.2f}",
            limit=ATTENTION_WARNING,
        )
        for pair in pairs
        if pair.jsd is not None and pair.jsd > ATTENTION_WARNING
    ]


def _row_doubt(metrics: Metrics) -> list[Said]:
    rows, teacher = metrics.data.rows.get("test"), _metric(metrics, "teacher")
    if not rows or rows >= FEW_ROWS or teacher is None or metrics.metric not in SHARES:
        return []
    margin = 196 * math.sqrt(max(teacher * (1 - teacher), 1 / rows) / rows)
    return [say("warn_rows", rows=rows, margin=f"{margin:.1f}")]


def _target_doubt(metrics: Metrics) -> list[Said]:
    target = metrics.target
    return [say("warn_target", target=target.title)] if target is not None and target.hardware is None else []


def _load_doubt(metrics: Metrics) -> list[Said]:
    """Times that other work disturbed: cores were wanted by others, or a single thread did not have its core to itself."""
    machine, cores = metrics.machine, metrics.machine.cores or 1
    is_crowded = machine.other_work is not None and machine.other_work + (machine.threads or 1) > cores
    is_disturbed = machine.cpu_share is not None and machine.cpu_share < LEAST_CPU_SHARE
    if not is_crowded and not is_disturbed:
        return []
    return [say("warn_load", others=machine.other_work or 0, cores=cores, share=percent(machine.cpu_share))]


def _reference_doubts(metrics: Metrics) -> list[Said]:
    """What the figures of the teacher stand for where there are several, and what cannot be said without a baseline."""
    found = [say("warn_together")] if "ensemble" in metrics.models else []
    if metrics.tasks:
        found.append(say("warn_tasks", task=next(iter(metrics.tasks))))
    if "baseline" not in metrics.models and "student" in metrics.models and metrics.task in TASKS:
        found.append(say("warn_no_baseline"))
    return found


def speed_note(metrics: Metrics) -> Said | None:
    """What "faster" counts against: the teacher in PyTorch, and the teacher in its own fastest form; None without times."""
    name, teacher = served_name(metrics), teacher_reference(metrics)
    best = fastest(metrics.models[name]) if name is not None and name != "teacher" else None
    factor = None if name is None else times_faster(metrics, name)
    if best is None or teacher is None or factor is None:
        return None
    given = {"teacher": milliseconds(teacher[1]), "runtime": teacher[0], "student": milliseconds(best[1]), "own": best[0]}
    note = say("speed_reference", factor=times(factor), threads=metrics.machine.threads or 1, **given)
    quickest = fastest(metrics.models["teacher"])
    if quickest is None or quickest[0] == teacher[0]:
        return note
    also = say(
        "speed_reference_also", factor=times(quickest[1] / best[1]), teacher=milliseconds(quickest[1]), runtime=quickest[0]
    )
    return Said(f"{note.en} {also.en}", f"{note.zh}{also.zh}")


def _metric(metrics: Metrics, name: str) -> float | None:
    return metrics.models[name].quality.get(metrics.metric) if name in metrics.models else None


def shown_quality(metrics: Metrics, name: str) -> str:
    """A model's metric as a person reads it."""
    return quality(metrics.metric, _metric(metrics, name))
