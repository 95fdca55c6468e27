"""Which task a model and its data call for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from potstill import answers, modalities
from potstill.errors import ModelError, RecipeError
from potstill.tasks.table import TASKS, build, plain_tasks

if TYPE_CHECKING:
    from datasets import Dataset

    from potstill.contracts.answers import Answers
    from potstill.tasks.task import ModelTask

_HEADLESS = ("Model", "ForMaskedLM", "ForPreTraining", "ForMaskedImageModeling", "ForCausalLM", "Backbone")


def infer(
    model_config: Any, columns: Iterable[str] = (), *, labels: Callable[[ModelTask], str | None] | None = None
) -> ModelTask:
    """The task that a model and the columns of the data call for.

    Args:
        model_config: A transformers configuration, or None.
        columns: Names of the data's columns, used where the model does not say.
        labels: Says of which kind the data's labels are (a name in `potstill.answers.ANSWERS`), given the task with one class for
            each row; asked where a model has no head yet.

    Raises:
        ModelError: The model was made for a task that Potstill does not know.
        RecipeError: Neither the model nor the columns say.
    """
    architectures = tuple(getattr(model_config, "architectures", None) or ())
    for architecture in architectures:
        if fitting := _with_head(architecture):
            return build(_by_problem(fitting, model_config))
    if architectures and not any(architecture.endswith(_HEADLESS) for architecture in architectures):
        raise ModelError(
            f"the teacher is a {architectures[0]}, made for another task",
            f"a model for {' or '.join(_first_of_heads())}, or one without a head",
            "take another teacher",
        )
    found = _by_family(model_config) or _by_columns(columns)
    kind = None if labels is None else labels(build(found))
    name = modalities.build(TASKS[found].modality).name
    fitting = [task for task, row in TASKS.items() if row.answers == kind and modalities.build(row.modality).name == name]
    return build(fitting[0] if fitting else found)


def answers_of(model: Any) -> Answers:
    """What a model answers: by the name of its class and the problem type of its configuration; else one class.

    Args:
        model: Any module; a model of transformers says it.
    """
    plain = next(iter(plain_tasks().values()))  # its head serves several kinds of answers
    fitting = _with_head(type(model).__name__) or _with_head(plain.head)
    return answers.build(TASKS[_by_problem(fitting, getattr(model, "config", None))].answers)


def kind_of_labels(dataset: Dataset, asked: Mapping[str, Any] | None = None) -> str | None:
    """The kind of answers where the columns say so by themselves; None where they do not."""
    from potstill.answers.label_columns import kind_by_column

    return _kind_of_units(dataset, set(asked or {})) or kind_by_column(dataset, asked)


def _kind_of_units(dataset: Dataset, roles: set[str]) -> str | None:
    """Words with tags, or questions with contexts and answers, by the usual names or by roles that such tasks alone have."""
    from potstill.answers.span import ANSWER_NAMES
    from potstill.answers.tags import TAG_NAMES
    from potstill.data.columns import is_list
    from potstill.modalities.text.questions import QUESTION_NAMES
    from potstill.modalities.text.words import WORD_NAMES

    if {"tokens", "tags"} & roles:
        return "tags"
    if {"context", "answers"} & roles:
        return "span"
    names = {name.strip().lower(): is_list(feature) for name, feature in dataset.features.items()}
    lists = {name for name, holds_lists in names.items() if holds_lists}
    if lists & set(WORD_NAMES) and lists & set(TAG_NAMES):
        return "tags"
    is_question = names.keys() & set(QUESTION_NAMES) and "context" in names and names.keys() & set(ANSWER_NAMES)
    return "span" if is_question else None


def _with_head(class_name: str) -> list[str]:
    return [name for name, row in TASKS.items() if class_name.endswith(row.head)]


def _first_of_heads() -> list[str]:
    first: dict[str, str] = {}
    for name, row in TASKS.items():
        first.setdefault(row.head, name)
    return sorted(first.values())


def _by_problem(names: list[str], model_config: Any) -> str:
    """Of tasks with one head, the one of a model's problem type; one output means one number, as transformers takes it."""
    problem = getattr(model_config, "problem_type", None)
    if problem is None and getattr(model_config, "num_labels", None) == 1:
        problem = "regression"
    kinds = {name: answers.build(TASKS[name].answers).problem_type for name in names}
    return next((name for name, kind in kinds.items() if kind is not None and kind == problem), names[0])


def _by_family(model_config: Any) -> str | None:
    """The task with one class for each row that transformers has a head for, where it has one only."""
    from transformers.models.auto import modeling_auto

    family = getattr(model_config, "model_type", None)
    found = []
    for name, row in plain_tasks().items():
        head = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", row.head).upper()  # ForImageClassification: FOR_IMAGE_CLASSIFICATION
        if family in getattr(modeling_auto, f"MODEL_{head}_MAPPING_NAMES", ()):
            found.append(name)
    return found[0] if len(found) == 1 else None


def _by_columns(columns: Iterable[str]) -> str:
    names = [column.lower() for column in columns]
    found = [task for task, row in plain_tasks().items() if set(names) & set(modalities.build(row.modality).column_names)]
    if len(found) != 1:
        raise RecipeError(
            f"neither the model nor the columns ({', '.join(names) or 'none'}) say which task this is",
            ", ".join(_first_of_heads()),
            "set task: text-classification",
        )
    return found[0]
