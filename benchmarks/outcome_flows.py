"""The flows of `outcomes.py`: small runs that together go through every kind of answer, method, student and schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from outcome_world import World


class Flow(NamedTuple):
    """What a run is given."""

    teacher: Any
    data: Any
    config: Mapping[str, Any]


# Settings of every flow; a flow's own are laid over them, section by section. No choice is left to a stopwatch: precision and
# quantization are given, because `auto` measures both. The number of threads is one, so that it is not measured either.
COMMON: dict[str, Any] = {
    "data": {"augment": "none"},
    "student": {"ratio": 0.5},
    "distill": {"epochs": 2, "learning_rate": 2e-3},
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 1, "similarity_rows": 16},
}

THING_COLUMNS = {"text": "sentence", "label": "thing"}

ANSWERS: dict[str, Callable[[World], Flow]] = {
    "kd": lambda w: Flow(w.bert, w.moods, {"method": "kd"}),
    "auto": lambda w: Flow(w.bert, w.moods, {"data": {"augment": 1}, "distill": {"epochs": None, "learning_rate": None}}),
    "baseline": lambda w: Flow(w.bert, w.moods, {"method": "kd", "baseline": True}),
    "pairs": lambda w: Flow(w.pair_bert, w.pairs, {"data": {"augment": 1}}),
    "long-texts": lambda w: Flow(w.bert, w.long_moods, {}),
    "unlabelled": lambda w: Flow(w.bert, w.moods, {"unlabelled": w.unlabelled, "method": "kd", "alpha": 0.6}),
    "multi-label": lambda w: Flow(w.body, w.graded, graded("multi-label", "labels")),
    "regression": lambda w: Flow(w.body, w.graded, graded("regression", "score")),
    "sentence-embeddings": lambda w: Flow(w.body, w.moods, {"task": "sentence-embeddings"}),
    "token-classification": lambda w: Flow(w.tagger, w.tagged, {"task": "token-classification", "data": {"augment": 1}}),
    "question-answering": lambda w: Flow(w.reader, w.questions, {"task": "question-answering"}),
    "vit": lambda w: Flow(w.vit, w.digits, {}),
    "resnet": lambda w: Flow(w.resnet, w.digits, {"baseline": True}),
}
TEACHERS: dict[str, Callable[[World], Flow]] = {
    "teacher-with-a-new-head": lambda w: Flow(w.body, w.moods, {"teacher": {"epochs": 2}}),
    "several-teachers": lambda w: Flow([w.bert, w.distilbert], w.moods, {"teacher": {"combine": "learned"}}),
    "several-teachers-live": lambda w: Flow(
        [w.vit, w.resnet], w.digits, {"teacher": {"combine": "agreement"}, "distill": {"cache": "never"}}
    ),
    "several-tasks": lambda w: Flow(
        {"mood": w.bert, "thing": w.thing_distilbert},
        {"mood": w.moods, "thing": w.things},
        {
            "method": "kd",
            "data": {"augment": 1},
            "tasks": {"thing": {"data": {"columns": {"text": "sentence", "label": "thing"}}}},
        },
    ),
    "live": lambda w: Flow(w.bert, w.moods, {"method": "kd", "distill": {"cache": "never"}}),
}
METHODS: dict[str, Callable[[World], Flow]] = {
    "takd": lambda w: Flow(w.bert, w.moods, {"method": "takd", "distill": {"epochs": 1}}),
    "ban": lambda w: Flow(
        w.resnet, w.digits, {"method": "ban", "distill": {"epochs": 1, "chain": {"generations": 2, "ensemble": True}}}
    ),
    "rco": lambda w: Flow(w.body, w.moods, {"method": "rco", "teacher": {"epochs": 4, "anchors": 2, "learning_rate": 1e-3}}),
    "dml": lambda w: Flow(w.bert, w.moods, {"method": "dml"}),
    "mean-teacher": lambda w: Flow(w.bert, w.moods, {"method": "mean_teacher", "distill": {"online": {"decay": 0.9}}}),
    "noisy-teacher": lambda w: Flow(w.bert, w.moods, {"method": "noisy_teacher"}),
    "self": lambda w: Flow(w.vit, w.digits, {"method": "self"}),
    "sskd": lambda w: Flow(w.vit, w.digits, {"method": "sskd"}),
    "crd": lambda w: Flow(w.resnet, w.digits, {"method": "crd"}),
    "fitnets": lambda w: Flow(w.resnet, w.digits, {"method": "fitnets"}),
    "minilm": lambda w: Flow(w.bert, w.moods, {"method": "minilm"}),
    "dynamic-layers": lambda w: Flow(w.bert, w.moods, {"method": "tinybert", "distill": {"layers": "dynamic"}}),
}
LOSSES: dict[str, Callable[[World], Flow]] = {
    "losses-list": lambda w: Flow(
        w.bert, w.moods, {"losses": ["kl", {"name": "hidden_mse", "weight": 0.5}, "rkd_distance", {"name": "ce", "weight": 0.2}]}
    ),
    "losses-table": lambda w: Flow(
        w.bert,
        w.moods,
        {"losses": {"backbone": {"type": "mse", "weight": 0.6}, "neck": "cosine", "head": {"type": "kl", "temperature": 3.0}}},
    ),
    "curriculum": lambda w: Flow(w.bert, w.moods, {"method": "kd", "distill": {"rows": {"order": "curriculum"}}}),
    "focus": lambda w: Flow(
        w.bert, w.moods, {"method": "kd", "distill": {"rows": {"focus": "teacher_uncertainty", "by": "sampling"}}}
    ),
    "focus-on-loss": lambda w: Flow(
        w.bert,
        w.moods,
        {"method": "kd", "temperature": {"per_sample": [1, 4]}, "distill": {"rows": {"focus": "student_loss", "strength": 0.7}}},
    ),
    "uncertainty": lambda w: Flow(w.bert, w.moods, {"losses": ["kl", "hidden_mse"], "distill": {"balance": "uncertainty"}}),
    "gradient-norm": lambda w: Flow(w.bert, w.moods, {"losses": ["kl", "hidden_mse"], "distill": {"balance": "gradient_norm"}}),
}
STUDENTS: dict[str, Callable[[World], Flow]] = {
    "same-architecture": lambda w: Flow(w.bert, w.moods, {"method": "kd", "student": {"ratio": 0}}),
    "bilstm": lambda w: Flow(w.bert, w.moods, {"student": {"architecture": "bilstm"}}),
    "cnn": lambda w: Flow(w.vit, w.digits, {"student": {"architecture": "cnn"}}),
    "named": lambda w: Flow(w.bert, w.moods, {"student": {"ratio": None, "model": w.narrow_bert}}),
    "quantized": lambda w: Flow(w.bert, w.moods, {"method": "kd", "quantize": "dynamic"}),
}
FLOWS: dict[str, Callable[[World], Flow]] = {**ANSWERS, **TEACHERS, **METHODS, **LOSSES, **STUDENTS}


def graded(task: str, column: str) -> dict[str, Any]:
    """Answers that are no classes: the head is trained, and a student without a teacher is compared."""
    return {"task": task, "baseline": True, "data": {"columns": {"label": column}}, "teacher": {"epochs": 2}}


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it, section by section."""
    found = dict(base)
    for key, value in change.items():
        held = found.get(key)
        found[key] = merged(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return found
