"""Tasks: what a row means, which model head it needs, and how an answer is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.tasks.contract import Task

TASKS = {
    "image-classification": "potstill.tasks.image_classification:ImageClassification",
    "multi-label": "potstill.tasks.multi_label:MultiLabel",
    "regression": "potstill.tasks.regression:Regression",
    "sentence-embeddings": "potstill.tasks.sentence_embeddings:SentenceEmbeddings",
    "text-classification": "potstill.tasks.text_classification:TextClassification",
    "question-answering": "potstill.tasks.question_answering:QuestionAnswering",
    "token-classification": "potstill.tasks.token_classification:TokenClassification",
}


def build(name: str) -> Task:
    """The task of that name.

    Raises:
        RecipeError: No such task; the message suggests the nearest one.
    """
    from potstill.ground.tables import resolve

    return resolve(TASKS, name, kind="task")()


def infer(model_config: Any, columns: Iterable[str] = (), *, labels: Callable[[], str | None] | None = None) -> Task:
    """The task that a model and the columns of the data call for.

    Args:
        model_config: A transformers configuration, or None.
        columns: Names of the data's columns, used where the model does not tell.
        labels: Says whether the data's labels are ``"labels"`` (several a row) or ``"numbers"``; asked where a text model has no
            head yet.

    Raises:
        ModelError: The model was made for a task that Potstill does not know.
        RecipeError: Neither the model nor the columns tell.
    """
    from potstill.tasks.inference import name_for

    return build(name_for(model_config, columns, labels))
