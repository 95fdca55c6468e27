"""Which task a model and its data call for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from potstill.data.columns import IMAGE_NAMES, TEXT_NAMES
from potstill.errors import ModelError, RecipeError

_HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForSentenceEmbedding": "sentence-embeddings",
}
_BY_LABELS = {
    "labels": "multi-label",
    "numbers": "regression",
    "tags": "token-classification",
    "spans": "question-answering",
}
_HEADLESS = ("Model", "ForMaskedLM", "ForPreTraining", "ForMaskedImageModeling", "ForCausalLM", "Backbone")


def name_for(model_config: Any, columns: Iterable[str], labels: Callable[[], str | None] | None = None) -> str:
    """The name of the task; arguments and errors as in `potstill.tasks.infer`."""
    architectures = tuple(getattr(model_config, "architectures", None) or ())
    for architecture in architectures:
        for ending, task in _HEADS.items():
            if architecture.endswith(ending):
                return _by_problem(model_config) if task == "text-classification" else task
    if architectures and not any(architecture.endswith(_HEADLESS) for architecture in architectures):
        raise ModelError(
            f"the teacher is a {architectures[0]}, made for another task",
            f"a model for {' or '.join(sorted(_HEADS.values()))}, or one without a head",
            "take another teacher",
        )
    found = _by_family(model_config) or _by_columns(columns)
    told = labels() if labels is not None and found == "text-classification" else None
    return _BY_LABELS.get(told or "", found)


def _by_problem(model_config: Any) -> str:
    """What a model for sequence classification was trained for: its problem type, and one output means one number."""
    problem = getattr(model_config, "problem_type", None)
    if problem is None and getattr(model_config, "num_labels", 2) == 1:
        problem = "regression"
    return {"multi_label_classification": "multi-label", "regression": "regression"}.get(problem or "", "text-classification")


def _by_family(model_config: Any) -> str | None:
    from transformers.models.auto import modeling_auto

    family = getattr(model_config, "model_type", None)
    is_text = family in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    is_image = family in modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if is_text == is_image:
        return None
    return "text-classification" if is_text else "image-classification"


def _by_columns(columns: Iterable[str]) -> str:
    names = [column.lower() for column in columns]
    is_image = any(name in IMAGE_NAMES for name in names)
    is_text = any(name in TEXT_NAMES for name in names)
    if is_text == is_image:
        raise RecipeError(
            f"neither the model nor the columns ({', '.join(names) or 'none'}) tell which task this is",
            ", ".join(sorted(_HEADS.values())),
            "set task: text-classification",
        )
    return "text-classification" if is_text else "image-classification"
