"""The report as one self-contained HTML page: no network, no other file, English and Chinese, light and dark."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from potstill.report import charts, headline, numbers, onnx_snippets, snippets, speedup
from potstill.report.doubts import apart, doubts
from potstill.report.loading import statement
from potstill.report.metrics import Metrics
from potstill.report.names import phase_name, readable, task_name
from potstill.report.plots.canvas import style_of
from potstill.report.remarks import remark
from potstill.report.words import Said, check_language, in_order, model_name, same, say
from potstill.report.words_en import ENGLISH


def render(metrics: Metrics, folder: str | Path, *, lang: str = "en") -> Path:
    """Write `index.html` and `metrics.json` into a folder.

    Args:
        metrics: The figures; the page shows nothing that is not in them.
        folder: Folder that receives the two files; made where it does not exist.
        lang: Language shown first, "en" or "zh"; the page holds both and has a switch.

    Raises:
        RecipeError: No such language.
    """
    folder = Path(folder)
    text = page(metrics, lang=lang)
    metrics.write(folder / "metrics.json")
    partial = folder / "index.html.partial"
    partial.write_text(text, "utf-8")
    return partial.replace(folder / "index.html")


def page(metrics: Metrics, *, lang: str = "en") -> str:
    """The page as text; see `render`."""
    here = Path(__file__).parent
    template = _template()
    return template.render(
        metrics=metrics,
        lang=check_language(lang),
        style=Markup((here / "page.css").read_text("utf-8")),
        title=_title(metrics),
        cards=_cards(metrics),
        doubts=doubts(metrics),
        columns=_columns(metrics, _model_rows(metrics)),
        readable=readable,
        remark=remark,
        task=task_name(metrics.task),
        metric=readable(metrics.metric),
        phase_name=phase_name,
        precision=_precision(metrics),
        worst=_worst(metrics),
        speed_note=speedup.speed_note(metrics, headline.served_name(metrics)),
        found_doubts={doubt.en for doubt in doubts(metrics)},
        rows=_model_rows(metrics),
        plan_rows=_plan_rows(metrics),
        batches=charts.batches(metrics),
        served=model_name(headline.served_name(metrics) or ""),
        apart=functools.partial(apart, metrics),
        reference=_reference_runtime(metrics),
        loading=statement(metrics),
        torch_code=snippets.load_with_transformers(metrics),
        onnx_code=onnx_snippets.load_with_onnxruntime(metrics),
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        say=say, words=ENGLISH, charts=charts, numbers=numbers, model_name=model_name, style_of=style_of, in_order=in_order
    )
    return environment.get_template("page.html.j2")


def _reference_runtime(metrics: Metrics) -> str:
    found = speedup.teacher_reference(metrics)
    return found.form if found else numbers.NONE


def _title(metrics: Metrics) -> Said:
    if metrics.title:
        return same(metrics.title)
    teacher, student = (metrics.models.get(name) for name in ("teacher", "student"))
    if teacher is None or student is None or not metrics.teacher:
        return say("title")
    kind = "" if metrics.plan is None else str(metrics.plan.student.get("model_type", ""))
    names = [one.strip().rstrip("/").replace("\\", "/").rpartition("/")[2] for one in metrics.teacher.split(" + ")]
    large = f"{' + '.join(names)} ({numbers.count(teacher.parameters)})"
    small = f"{kind} ({numbers.count(student.parameters)})".strip()
    return say("title_models", teacher=large, student=small)


def _cards(metrics: Metrics) -> list[Mapping[str, Said]]:
    """Headline figures of the model to be served; a figure that is unknown has no card."""
    name = headline.served_name(metrics)
    if name is None:
        return []
    found = [
        _kept_card(metrics, name),
        _smaller_card(metrics, name),
        _faster_card(metrics, name),
        _gap_card(metrics),
        _removed_card(metrics),
        _agreement_card(metrics, name),
    ]
    return [card for card in found if card]


def _card(value: str, name: str, note: Said) -> dict[str, Said]:
    return {"value": same(value), "name": say(name), "note": note}


def _kept_card(metrics: Metrics, name: str) -> dict[str, Said] | None:
    kept = headline.retention_of(metrics, name)
    if kept is None:
        return None
    student, teacher = headline.shown_quality(metrics, name), headline.shown_quality(metrics, "teacher")
    note = say("card_kept_note", metric=readable(metrics.metric), student=student, teacher=teacher)
    further = apart(metrics, name, "teacher")
    if further is not None:
        note = Said(f"{note.en}; {further.en}", f"{note.zh}；{further.zh}")
    return _card(numbers.percent(kept), "card_kept", note)


def _smaller_card(metrics: Metrics, name: str) -> dict[str, Said] | None:
    factor = headline.times_smaller(metrics, name)
    if factor is None:
        return None
    sizes = {"student": numbers.size(metrics.models[name].bytes), "teacher": numbers.size(metrics.models["teacher"].bytes)}
    return _card(numbers.times(factor), "card_smaller", say("card_smaller_note", **sizes))


def _faster_card(metrics: Metrics, name: str) -> dict[str, Said] | None:
    found, also = speedup.against_reference(metrics, name), speedup.short_note(metrics, name)
    if found is None:
        return None
    note = say("card_faster_note", own=found.own.said, teacher=found.teacher.said)
    note = note if also is None else Said(f"{note.en}; {also.en}", f"{note.zh}；{also.zh}")
    return _card(numbers.times(found.factor), "card_faster", note)


def _gap_card(metrics: Metrics) -> dict[str, Said] | None:
    if metrics.gap_closed is None or "baseline" not in metrics.models:
        return None
    note = say("card_gap_note", baseline=headline.shown_quality(metrics, "baseline"))
    return _card(numbers.percent(metrics.gap_closed, 0), "card_gap", note)


def _removed_card(metrics: Metrics) -> dict[str, Said] | None:
    student, teacher = metrics.models.get("student"), metrics.models.get("teacher")
    if metrics.ratio.achieved is None or student is None or teacher is None:
        return None
    left = {"student": numbers.count(student.parameters), "teacher": numbers.count(teacher.parameters)}
    asked = metrics.ratio.asked
    note = say("card_removed_plain", **left) if asked is None else say("card_removed_note", asked=numbers.percent(asked), **left)
    return _card(numbers.percent(metrics.ratio.achieved), "card_removed", note)


def _agreement_card(metrics: Metrics, name: str) -> dict[str, Said] | None:
    agreement, wdsr = _of_model(metrics, name, "agreement"), _of_model(metrics, name, "wdsr")
    if agreement is None:
        return None
    note = same("") if wdsr is None else say("card_agreement_note", wdsr=numbers.percent(wdsr))
    return _card(numbers.percent(agreement), "card_agreement", note)


def _model_rows(metrics: Metrics) -> list[Mapping[str, object]]:
    """One row of the table of models, in the order teacher, baseline, student, student-int8, others."""
    rows: list[Mapping[str, object]] = []
    names = in_order(metrics.models)
    for name in names:
        model = metrics.models[name]
        is_teacher = name == "teacher"
        rows.append(
            {
                "name": model_name(name),
                "style": style_of(name, names),
                "quality": headline.shown_quality(metrics, name),
                "interval": metrics.confidence.get(f"{name}.{metrics.metric}"),
                "others": {key: value for key, value in model.quality.items() if key != metrics.metric},
                "retention": "" if is_teacher else numbers.percent(headline.retention_of(metrics, name)),
                "agreement": None if is_teacher else _of_model(metrics, name, "agreement"),
                "wdsr": None if is_teacher else _of_model(metrics, name, "wdsr"),
                "kl": None if is_teacher else _of_model(metrics, name, "mean_kl_nats"),
                "model": model,
                "best": speedup.fastest(model),
                "faster": None if is_teacher else speedup.against_reference(metrics, name),
                "faster_also": None if is_teacher else speedup.short_note(metrics, name),
            }
        )
    return rows


def _precision(metrics: Metrics) -> list[Mapping[str, Any]]:
    """Phases that did not compute in fp32, or whose rounding was measured: what a table can show."""
    return [
        {"phase": phase_name(stage), **one.model_dump()}
        for stage, one in metrics.precision.items()
        if any(value is not None for key, value in one.model_dump().items() if key != "computed_in")
    ]


def _worst(metrics: Metrics) -> dict[str, bool]:
    """Which columns of the worst examples have anything in them."""
    fields = ("label", "teacher_label", "student_label", "teacher_probability")
    return {name: any(getattr(one, name) not in (None, "", numbers.NONE) for one in metrics.worst_examples) for name in fields}


def _columns(metrics: Metrics, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Columns of the table of models in which some model has a figure."""
    found = {key for key in ("agreement", "wdsr", "kl") if any(row[key] is not None for row in rows)}
    models = metrics.models.values()
    found |= {key for key in ("ece", "parameters", "bytes", "flops") if any(getattr(model, key) is not None for model in models)}
    found |= {"agreement"} if any(model.closeness for model in models) else set()
    found |= {"retention"} if any(row["retention"] not in ("", numbers.NONE) for row in rows) else set()
    return found | ({"fastest", "times_faster"} if any(row["best"] for row in rows) else set())


def _of_model(metrics: Metrics, name: str, figure: str) -> float | None:
    """A model's own figure; the student's is the run's where it has none of its own."""
    own: float | None = getattr(metrics.models[name], figure)
    if own is None and name == "student":
        whole: float | None = getattr(metrics, figure)
        return whole
    return own


def _plan_rows(metrics: Metrics) -> list[tuple[str, str, str]]:
    """Part, teacher, student: every key that either shape has."""
    if metrics.plan is None:
        return []
    keys = list({**metrics.plan.teacher, **metrics.plan.student})
    return [(key, _shape(metrics.plan.teacher.get(key)), _shape(metrics.plan.student.get(key))) for key in keys]


def _shape(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return numbers.NONE if value is None else str(value)
