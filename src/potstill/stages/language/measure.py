"""Stage `evaluate` of a language model: every figure of the models on the test split, written down once."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.data.run_rows import read_facts
from potstill.evaluate.language import measure_tokens
from potstill.ground.hardware import package_versions
from potstill.knowledge.tokens.cache import TokenCache
from potstill.modalities.language.rows import TokenRows
from potstill.models.language_model import LanguageModel
from potstill.report.assemble import machine_facts
from potstill.report.metrics import DataSummary, Metrics, ModelFigures, PlanSummary, Ratio, TokenCacheFigures, history_points

METRIC = "accuracy"


@dataclass(frozen=True)
class MeasureOptions:
    """What measuring reads of a recipe."""

    teacher: str = field(compare=False)
    source: str = field(compare=False)
    seed: int
    recipe_file: Path = field(compare=False)


def measure(given: Given, options: MeasureOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Measure teacher, baseline and student, and write the figures."""
    parties: dict[str, tuple[LanguageModel, TokenRows, LanguageModel | None]] = {
        "teacher": (given.teacher, given.rows, None),
        "student": (given.student, given.student_rows, given.asked_teacher),
    }
    models: dict[str, ModelFigures] = {}
    for name, (party, rows, other) in parties.items():
        found = measure_tokens(
            party.decoder,
            rows.windows("test"),
            rows.collator,
            teacher=None if other is None else other.decoder,
            on_progress=lambda done, total: observer.stage_advanced(done, total, {}),
        ).figures(num_bytes=int(rows.documents("test").num_bytes.sum()))
        models[name] = _figures(party, found)
    rows = given.rows
    teacher, student = models["teacher"], models["student"]
    teacher.retention = 1.0
    student.retention = _share(student.quality[METRIC], teacher.quality[METRIC])
    facts, plan = read_facts(given.student_folder), read_facts(given.start_folder)["plan"]
    metrics = Metrics(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        task="causal-lm",
        metric=METRIC,
        answers="tokens",
        teacher=options.teacher,
        command=f"potstill distill {options.recipe_file}",
        ratio=Ratio(asked=plan["ratio_asked"], achieved=1 - (student.parameters or 0) / (teacher.parameters or 1)),
        retention=student.retention,
        agreement=student.agreement,
        mean_kl_nats=student.mean_kl_nats,
        models=models,
        served="student",
        plan=PlanSummary(
            teacher=_shape(given.teacher), student=_shape(given.student), layers_kept=plan["layers_kept"], notes=plan["notes"]
        ),
        history={one["name"]: history_points(one["history"]) for one in facts.get("stages", ())},
        cache=_cache(given.answers),
        data=DataSummary(
            source=options.source, rows=rows.facts["rows"], notes=rows.facts["notes"], documents=rows.facts["splits"]
        ),
        machine=machine_facts(),
        versions=package_versions(),
        seeds={"seed": options.seed},
        files={"student": "student"},
    )
    metrics.write(folder / "metrics.json")
    return []


def _figures(party: LanguageModel, found: dict[str, float]) -> ModelFigures:
    model = party.decoder.model
    quality = {name: found[name] for name in ("accuracy", "perplexity", "bits_per_byte", "loss") if name in found}
    return ModelFigures(
        quality=quality,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        ece=found["ece"],
        agreement=found.get("teacher_agreement"),
        mean_kl_nats=found.get("teacher_kl"),
    )


def _cache(kept: TokenCache | None) -> TokenCacheFigures | None:
    facts = {} if kept is None else kept.facts
    return TokenCacheFigures(**{name: facts[name] for name in TokenCacheFigures.model_fields}) if facts else None


def _share(value: float | None, of: float | None) -> float | None:
    return None if value is None or not of else value / of


def _shape(party: LanguageModel) -> dict[str, Any]:
    config = party.decoder.config
    names = ("model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return {name: getattr(config, name) for name in (*names, "vocab_size") if getattr(config, name, None) is not None}
