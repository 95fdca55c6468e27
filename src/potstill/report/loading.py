"""The student's type, and what loads it and reads for it: facts, and the sentence that says them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from potstill.contracts.modality import Modality
from potstill.evaluate.measured_model import Bench
from potstill.report.metrics import Loading, Metrics
from potstill.report.words import Said, say


def loading_of(bench: Bench) -> Loading:
    """The facts, of the student as it is saved."""
    columns = bench.rows.split("test").column_names
    model, processor = bench.student.loaded
    return facts_of(model, processor, bench.rows.task.modality, columns, bench.options.max_tokens)


def facts_of(model: Any, processor: Any, modality: Modality, columns: Collection[str], max_tokens: int | None) -> Loading:
    """The facts of a model that reads rows with these columns through a processor."""
    return Loading(
        model_type=model.config.model_type,
        model_class=type(model).__name__,
        needs=_needs(model),
        inputs=[name for name in modality.roles if name in columns],
        **modality.reading(processor, max_tokens),
    )


def _needs(model: Any) -> Literal["transformers", "trust_remote_code", "potstill"]:
    config = model.config
    if getattr(config, "auto_map", None):
        return "trust_remote_code"
    return "transformers" if type(config).__module__.startswith("transformers.") else "potstill"


def statement(metrics: Metrics) -> Said | None:
    """The student's type and how it loads, in a sentence or two; None where the document does not say it."""
    loading = metrics.loading
    if loading is None:
        return None
    return say(f"loads_{loading.needs}", kind=loading.model_class, model_type=loading.model_type)
