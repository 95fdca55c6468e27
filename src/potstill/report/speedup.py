"""How many times faster a model is than the teacher, and what of the teacher that counts against."""

from __future__ import annotations

from dataclasses import dataclass

from potstill.report.metrics import Latency, Metrics, ModelFigures
from potstill.report.numbers import milliseconds, times
from potstill.report.words import Said, model_name, say

REFERENCE = "pytorch-fp32"
ONE = "1"


@dataclass(frozen=True)
class Timed:
    """A median at batch 1.

    Args:
        form: Runtime and precision, ``"onnxruntime-int8"``.
        threads: That the runtime used; None where it was not written down.
    """

    form: str
    p50_ms: float
    threads: int | None = None

    def __str__(self) -> str:
        counted = "" if self.threads is None else f", {self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"{milliseconds(self.p50_ms)} ({self.form}{counted})"

    @property
    def said(self) -> Said:
        """Itself in both languages."""
        counted = "" if self.threads is None else f"，{self.threads} 线程"
        return Said(str(self), f"{milliseconds(self.p50_ms)}（{self.form}{counted}）")


@dataclass(frozen=True)
class Speedup:
    """A model's fastest form against one form of the teacher."""

    own: Timed
    teacher: Timed

    @property
    def factor(self) -> float:
        """The teacher's median ÷ the model's."""
        return self.teacher.p50_ms / self.own.p50_ms

    @property
    def is_same_form(self) -> bool:
        """Whether both run in the same runtime and precision."""
        return self.own.form == self.teacher.form


def timed_forms(model: ModelFigures) -> dict[str, Timed]:
    """The forms in which a model was timed at batch 1."""
    return _timed({form: sizes[ONE] for form, sizes in model.latency_ms.items() if ONE in sizes})


def _timed(latencies: dict[str, Latency]) -> dict[str, Timed]:
    known = {form: (one.p50, one.threads) for form, one in latencies.items()}
    return {form: Timed(form, p50, threads) for form, (p50, threads) in known.items() if p50 is not None and p50 > 0}


def fastest(model: ModelFigures) -> Timed | None:
    """The form with the lowest median."""
    return min(timed_forms(model).values(), key=lambda one: one.p50_ms, default=None)


def teacher_reference(metrics: Metrics) -> Timed | None:
    """What speed-ups are counted against: the teacher in PyTorch fp32 where that was measured, else in its fastest form."""
    teacher = metrics.models.get("teacher")
    return None if teacher is None else timed_forms(teacher).get(REFERENCE) or fastest(teacher)


def against_reference(metrics: Metrics, name: str) -> Speedup | None:
    """A model against the teacher's `teacher_reference`; None where either was not timed."""
    own, teacher = fastest(metrics.models[name]), teacher_reference(metrics)
    return Speedup(own, teacher) if own and teacher else None


def against_same_form(metrics: Metrics, name: str) -> Speedup | None:
    """A model against the teacher in the model's own runtime and precision, else in the teacher's fastest form.

    None where that is `against_reference` again, or either was not timed.
    """
    first = against_reference(metrics, name)
    if first is None or first.is_same_form:
        return None
    forms, also = timed_forms(metrics.models["teacher"]), metrics.teacher_as_served
    if also is not None and also.runtime is not None and ONE in also.latency_ms:
        forms = _timed({also.runtime: also.latency_ms[ONE]}) | forms
    own = forms.get(first.own.form)
    quickest = own or fastest(metrics.models["teacher"])
    return Speedup(first.own, quickest) if quickest is not None and quickest.form != first.teacher.form else None


def speed_note(metrics: Metrics, name: str | None) -> Said | None:
    """What "faster" counts against for a model: both factors, each with its two sides; None without times."""
    first = against_reference(metrics, name) if name is not None and name != "teacher" else None
    if name is None or first is None:
        return None
    parts = [
        say("speed_reference", teacher=first.teacher.form),
        say("speed_first", name=model_name(name), own=first.own.said, teacher=first.teacher.said, factor=times(first.factor)),
    ]
    second = against_same_form(metrics, name)
    if not first.is_same_form and (second is None or not second.is_same_form):
        parts.append(_not_measured(metrics, first.own.form))
    if second is not None:
        key = "speed_same_form" if second.is_same_form else "speed_other_form"
        parts.append(say(key, teacher=second.teacher.said, factor=times(second.factor)))
    return Said(" ".join(one.en for one in parts), "".join(one.zh for one in parts))


def _not_measured(metrics: Metrics, form: str) -> Said:
    also = metrics.teacher_as_served
    if also is not None and also.reason:
        return say("speed_not_measured_why", form=form, reason=also.reason)
    return say("speed_not_measured", form=form)


def short_note(metrics: Metrics, name: str) -> Said | None:
    """Both factors in few words, where they differ: the second one with the form of the teacher."""
    second = against_same_form(metrics, name)
    return None if second is None else say("faster_also", factor=times(second.factor), form=second.teacher.form)
