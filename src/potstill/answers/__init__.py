"""Kinds of answers: one class, label sets, numbers, embeddings, tags of words, spans, classes of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from potstill.contracts.answers import Answers

ANSWERS = {
    "class": "potstill.answers.one_class:OneClass",
    "labels": "potstill.answers.label_sets:LabelSets",
    "numbers": "potstill.answers.numbers:Numbers",
    "embedding": "potstill.answers.embedding:Embedding",
    "tags": "potstill.answers.tags:Tags",
    "span": "potstill.answers.span:Span",
    "tasks": "potstill.answers.several_tasks:OwnTaskClass",
}


def build(kind: str, label_names: Sequence[str] = ()) -> Answers:
    """The answers of that kind.

    Args:
        kind: A name in `ANSWERS`.
        label_names: Names of the labels in the order of the logits, where they are known.

    Raises:
        RecipeError: No such kind; the message suggests the nearest one.
    """
    from potstill.ground.tables import resolve

    answers: Answers = resolve(ANSWERS, kind, kind="kind of answers")()
    answers.label_names = tuple(label_names)
    return answers
