"""The model card: README.md of the output folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from potstill.ground.counted import counted
from potstill.report import headline, numbers, onnx_snippets, snippets, speedup
from potstill.report.doubts import doubts
from potstill.report.loading import statement
from potstill.report.metrics import Metrics
from potstill.report.words import in_order


def write_card(metrics: Metrics, folder: str | Path) -> Path:
    """Write the model card of a run as ``README.md``."""
    path = Path(folder) / "README.md"
    partial = path.with_name("README.md.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(card(metrics), "utf-8")
    return partial.replace(path)


def card(metrics: Metrics, *, repository: str | None = None) -> str:
    """The model card as Markdown with a YAML head.

    Args:
        repository: Where the student is published, ``owner/name``: its code loads from there, and what lies in the output
            folder only is not named.
    """
    head = yaml.safe_dump(_front_matter(metrics, repository), sort_keys=False, allow_unicode=True)
    title = _plain(metrics.title) or _plain((repository or "").rpartition("/")[2]) or "A distilled student"
    parts = [f"---\n{head}---", f"# {title}", _opening(metrics)]
    parts += ["## Tasks", _tasks(metrics)] if metrics.tasks else []
    parts += [
        "## Figures",
        _figures(metrics),
        _conditions(metrics),
        _REPORT if repository is None else "",
        "## Training",
        _training(metrics),
    ]
    parts += ["## Use", _use(metrics, repository), "## Limits", _limits(metrics)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(metrics: Metrics, repository: str | None) -> dict[str, Any]:
    student = metrics.models.get("student")
    results = [
        {"type": name, "value": value} for name, value in (student.quality if student else {}).items() if value is not None
    ]
    source = _named(metrics.data.source or "unknown", metrics.datasets)
    entry = {
        "task": {"type": metrics.task},
        "dataset": {"name": source, "type": source, "split": "test"},
        "metrics": results,
    }
    head: dict[str, Any] = {
        "license": metrics.license or "unknown",
        "library_name": "transformers",
        "pipeline_tag": snippets.pipeline_of(metrics),
    }
    if metrics.languages:
        head["language"] = metrics.languages
    if metrics.datasets:
        head["datasets"] = metrics.datasets
    if metrics.base_models:
        head["base_model"] = metrics.base_models[0] if len(metrics.base_models) == 1 else metrics.base_models
    head["tags"] = ["knowledge-distillation", "potstill"]
    head["metrics"] = [result["type"] for result in results]
    head["model-index"] = [{"name": (repository or "student").rpartition("/")[2], "results": [entry]}]
    return head


def _named(names: str, hub_ids: Sequence[str]) -> str:
    """Models or data as a reader elsewhere may know them: hub ids, and of paths of this machine the last part."""
    return " + ".join(name if name.partition(":")[0] in hub_ids else Path(name).name for name in names.split(" + "))


def _opening(metrics: Metrics) -> str:
    name, student = headline.served_name(metrics), metrics.models.get("student")
    whose = (
        f" distilled from `{_plain(_named(metrics.teacher, metrics.base_models))}`"
        if metrics.teacher
        else " distilled from a larger model"
    )
    what = f"{len(metrics.tasks)} tasks of {metrics.task}" if metrics.tasks else metrics.task
    text = f"A model for {what}{whose} with Potstill."
    kept = headline.retention_of(metrics, name) if name else None
    if name and kept is not None:
        text += f" `{name}` keeps {numbers.percent(kept)} of the teacher's {metrics.metric}"
        smaller, faster = headline.times_smaller(metrics, name), speedup.against_reference(metrics, name)
        text += f", is {numbers.times(smaller)} smaller on disk" if smaller else ""
        if faster is not None:
            text += f" and {numbers.times(faster.factor)} faster at batch 1 than the teacher in {faster.teacher.form}"
            also = speedup.short_note(metrics, name)
            text += "" if also is None else f" ({also.en})"
        text += "."
    if student and metrics.ratio.achieved is not None:
        text += f" It has {numbers.count(student.parameters)} parameters; {numbers.percent(metrics.ratio.achieved)} were removed."
    return text


def _figures(metrics: Metrics) -> str:
    lines = [
        f"| model | {_plain(metrics.metric)} | kept | parameters | on disk | p50, batch 1 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in in_order(metrics.models):
        model, best = metrics.models[name], speedup.fastest(metrics.models[name])
        speed = str(best) if best else numbers.NONE
        kept = "" if name == "teacher" else numbers.percent(headline.retention_of(metrics, name))
        cells = [
            name,
            headline.shown_quality(metrics, name),
            kept,
            numbers.count(model.parameters),
            numbers.size(model.bytes),
            speed,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    shares = {"Agreement": metrics.agreement, "WDSR": metrics.wdsr, "Gap closed": metrics.gap_closed}
    more = [f"{name}: {numbers.percent(value)}." for name, value in shares.items() if value is not None]
    if metrics.mean_kl_nats is not None:
        more.append(f"Mean KL to the teacher: {numbers.significant(metrics.mean_kl_nats)} nats.")
    return "\n".join(lines) + ("\n\n" + " ".join(more) if more else "")


def _tasks(metrics: Metrics) -> str:
    """Which classes belong to which task, and how well each task is answered."""
    name = headline.served_name(metrics) or "student"
    lines = [
        f"One model with a block of logits for each task; a row is answered by the largest logit of its task's block.\n\n"
        f"| task | logits | classes | {_plain(metrics.metric)} of the teacher | of {name} |",
        "|---|---|---|---:|---:|",
    ]
    start = 0
    for task, labels in metrics.tasks.items():
        known = [metrics.models[who].quality.get(f"{task}/{metrics.metric}") for who in ("teacher", name)]
        figures = [numbers.NONE if value is None else numbers.quality(metrics.metric, value) for value in known]
        classes = ", ".join(_plain(label.removeprefix(f"{task}/")) for label in labels)
        lines.append(f"| {task} | {start} to {start + len(labels) - 1} | {classes} | {' | '.join(figures)} |")
        start += len(labels)
    return "\n".join(lines)


def _conditions(metrics: Metrics) -> str:
    rows = metrics.data.rows.get("test")
    text = f"Measured on {rows:,} test rows" if rows else "Measured on the test split"
    if metrics.timed_hardware:
        text += f"; speed on {_plain(metrics.timed_hardware)}"
        text += f", {counted(metrics.machine.threads, 'thread')}" if metrics.machine.threads else ""
    note = speedup.speed_note(metrics, headline.served_name(metrics))
    text += "" if note is None else f". {note.en[0].upper()}{note.en[1:-1]}"
    return f"{text}."


_REPORT = "Every figure and plot: `report/index.html` and `report/metrics.json`."


def _training(metrics: Metrics) -> str:
    """What the student learned from, and how."""
    rows = metrics.data.rows.get("train")
    teacher = f" from `{_plain(_named(metrics.teacher, metrics.base_models))}`" if metrics.teacher else ""
    text = f"Distilled{teacher} on {f'{rows:,} training rows' if rows else 'the training rows'}"
    text += f" of {_plain(_named(metrics.data.source, metrics.datasets))}" if metrics.data.source else ""
    phases = [f"{name} ({max(point.step for point in points):,} steps)" for name, points in metrics.history.items() if points]
    text += f"; phases: {', '.join(phases)}" if phases else ""
    text += f"; seed {next(iter(metrics.seeds.values()))}" if metrics.seeds else ""
    versions = {name: metrics.versions[name] for name in ("potstill", "torch", "transformers") if name in metrics.versions}
    text += f"; {', '.join(f'{name} {version}' for name, version in versions.items())}" if versions else ""
    return f"{text}."


def _use(metrics: Metrics, repository: str | None) -> str:
    said = statement(metrics)
    torch_code = snippets.load_with_transformers(_with_student(metrics, repository))
    onnx = onnx_snippets.load_with_onnxruntime(_with_student(metrics, repository and "."))
    parts = [] if said is None else [_plain(said.en)]
    parts += ["In this folder:"] if repository is None else []
    parts.append(f"```python\n{torch_code}\n```")
    if onnx:
        where = "" if repository is None else f", in the folder that `hf download {repository} --local-dir .` fills"
        parts += [f"Without transformers and PyTorch{where}:", f"```python\n{onnx}\n```"]
    return "\n\n".join(parts)


def _with_student(metrics: Metrics, place: str | None) -> Metrics:
    """The figures with the student in another place."""
    return metrics if place is None else metrics.model_copy(update={"files": {**metrics.files, "student": place}})


def _limits(metrics: Metrics) -> str:
    lines = [
        "It repeats what the teacher gets wrong, and knows only inputs like those it was trained on.",
        "Speeds hold for the machine named above.",
    ]
    found = [doubt.en for doubt in doubts(metrics)]
    lines += found + [warning for warning in metrics.warnings if warning not in found]
    if not metrics.license:
        lines.append("The licence follows from the teacher's and the data's; it was not given, so it is unknown.")
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _plain(text: str | None) -> str:
    """One line that Markdown and HTML leave alone."""
    for char, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        text = (text or "").replace(char, safe)
    return " ".join((text or "").split())
