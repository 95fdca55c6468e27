"""Doubts about the figures of a run, which follow from the figures themselves."""

from __future__ import annotations

import math

from potstill.contracts.task import TASKS
from potstill.report.headline import metric_of, retention_of, served_name
from potstill.report.metrics import ATTENTION_WARNING, Metrics
from potstill.report.names import readable
from potstill.report.numbers import SHARES, percent, signed, significant
from potstill.report.words import Said, model_name, say

GOOD_RETENTION = 0.95
RATIO_TOLERANCE = 0.0101
FEW_ROWS = 1000
LEAST_CPU_SHARE = 0.85  # of a single thread; below it something else ran on its core
MOST_THROTTLED = 0.01  # of the time that timing took


def doubts(metrics: Metrics) -> list[Said]:
    """All of them, in both languages."""
    found = [*_quality_doubts(metrics), *_baseline_doubts(metrics), *_ratio_doubt(metrics), *_attention_doubts(metrics)]
    return [*found, *_row_doubts(metrics), *_target_doubt(metrics), *_load_doubts(metrics), *_reference_doubts(metrics)]


def _quality_doubts(metrics: Metrics) -> list[Said]:
    found: list[Said] = []
    kept, metric = retention_of(metrics, "student") if "student" in metrics.models else None, readable(metrics.metric)
    if kept is not None and kept < GOOD_RETENTION:
        found.append(say("warn_retention", name=model_name("student"), value=percent(kept), metric=metric))
    whole, small = metric_of(metrics, "student"), metric_of(metrics, "student-int8")
    if whole is not None and small is not None and whole - small > 0.01 and metrics.metric in SHARES:
        found.append(say("warn_int8", drop=significant(100 * (whole - small)), metric=metric))
    return found


def _baseline_doubts(metrics: Metrics) -> list[Said]:
    baseline, student = metric_of(metrics, "baseline"), metric_of(metrics, "student")
    if baseline is None or student is None:
        return []
    if baseline >= student:
        return [say("warn_baseline")]
    gain, interval = apart(metrics, "student", "baseline"), metrics.confidence.get("student - baseline")
    is_sure = gain is None or interval is None or (interval.low or 0.0) > 0
    return [] if is_sure else [say("warn_gain", difference=gain)]


def apart(metrics: Metrics, name: str, other: str) -> Said | None:
    """How much better a model is than another, with its paired interval; None where there is none."""
    interval = metrics.confidence.get(f"{name} - {other}")
    own, their = metric_of(metrics, name), metric_of(metrics, other)
    if interval is None or interval.low is None or interval.high is None or own is None or their is None:
        return None
    figures = {"value": own - their, "low": interval.low, "high": interval.high}
    key = "difference_points" if metrics.metric.rpartition("/")[2] in SHARES else "difference_plain"
    return say(key, **{figure: signed(metrics.metric, value) for figure, value in figures.items()})


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


def _row_doubts(metrics: Metrics) -> list[Said]:
    """On few rows: how far apart student and teacher may be, by the paired interval where there is one."""
    rows, teacher, name = metrics.data.rows.get("test"), metric_of(metrics, "teacher"), served_name(metrics)
    if not rows or rows >= FEW_ROWS or teacher is None or name is None:
        return []
    further = apart(metrics, name, "teacher")
    if further is not None:
        return [say("warn_rows_paired", rows=rows, name=model_name(name), difference=further)]
    if metrics.metric not in SHARES:
        return []
    margin = 196 * math.sqrt(max(teacher * (1 - teacher), 1 / rows) / rows)
    return [say("warn_rows", rows=rows, margin=f"{margin:.1f}")]


def _target_doubt(metrics: Metrics) -> list[Said]:
    target = metrics.target
    return [say("warn_target", target=target.title)] if target is not None and target.hardware is None else []


def _load_doubts(metrics: Metrics) -> list[Said]:
    """Times that were disturbed: others wanted cores, a single thread had no core to itself, or a limit or heat took time."""
    machine, found = metrics.machine, []
    cores = machine.all_cores or machine.cores or 1
    if machine.other_work is not None and machine.other_work + (machine.threads or 1) > cores:
        found.append(say("warn_crowded", others=machine.other_work, cores=cores))
    if machine.cpu_share is not None and machine.cpu_share < LEAST_CPU_SHARE:
        found.append(say("warn_core", share=percent(machine.cpu_share, 0)))
    if machine.throttled_share is not None and machine.throttled_share > MOST_THROTTLED:
        found.append(say("warn_throttled", share=percent(machine.throttled_share)))
    if machine.heat_events:
        found.append(say("warn_heat", events=machine.heat_events))
    if not found:
        return []
    causes, after = Said("; ".join(one.en for one in found), "；".join(one.zh for one in found)), say("warn_load_todo")
    return [say("warn_load", causes=causes, todo=after)]


def _reference_doubts(metrics: Metrics) -> list[Said]:
    """What the figures of the teacher stand for where there are several, and what cannot be said without a baseline."""
    found = [say("warn_together")] if "ensemble" in metrics.models else []
    if metrics.tasks:
        found.append(say("warn_tasks", task=next(iter(metrics.tasks))))
    if "baseline" not in metrics.models and "student" in metrics.models and metrics.task in TASKS:
        found.append(say("warn_no_baseline"))
    return found
