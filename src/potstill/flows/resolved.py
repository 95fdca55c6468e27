"""What a finished run chose where its recipe left it open."""

from __future__ import annotations

from typing import Any

from potstill.data.run_rows import read_facts
from potstill.flows.distill import DistillFlow
from potstill.flows.language import LanguageFlow
from potstill.methods.catalogue import DEFAULT, traits
from potstill.planning.phases import method_of
from potstill.report.metrics import Metrics


def resolved(flow: DistillFlow | LanguageFlow, metrics: Metrics) -> dict[str, Any]:
    """Dotted key → value, for keys that make the same run again once they are set.

    Passes and rate are left open where a method has several phases or models, each with its own.
    """
    if isinstance(flow, LanguageFlow):
        return flow.resolved()
    recipe, distill, open_rows = flow.recipe, flow.recipe.distill, flow.open(flow.rows)
    found: dict[str, Any] = {}
    if recipe.task == "auto" and not recipe.tasks:
        found["task"] = open_rows.task.name
    if recipe.student.model is None and not recipe.student.model_dump(
        include={"ratio", "params", "bytes", "latency_ms"}, exclude_none=True
    ):
        found["student.ratio"] = recipe.student.budget["ratio"]
    if distill.losses is None:
        method = method_of(recipe, open_rows.task)
        if distill.method == "auto":
            found["distill.method"] = DEFAULT if method == "auto" else method
        phases = read_facts(flow.student.folder).get("stages", [])
        if len(phases) == 1 and not traits(method).is_chain:
            keys = (key for key in ("epochs", "learning_rate") if getattr(distill, key) is None and key in phases[0])
            found |= {f"distill.{key}": phases[0][key] for key in keys}
    computed = {one.computed_in for one in metrics.precision.values()}
    if recipe.precision == "auto" and len(computed) == 1:
        found["precision"] = computed.pop()
    return found
