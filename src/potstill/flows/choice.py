"""Which flow a recipe takes: rows with answers, or tokens of a language."""

from __future__ import annotations

from collections.abc import Mapping

from potstill.contracts.task import TASKS, TOKEN_TASKS
from potstill.flows.distill import DistillFlow
from potstill.flows.language import LanguageFlow
from potstill.planning.check import check_recipe
from potstill.planning.inputs import IN_MEMORY, InMemory, read_config
from potstill.recipe import Recipe


def flow_for(recipe: Recipe, memory: InMemory, tasks: Mapping[str, InMemory]) -> DistillFlow | LanguageFlow:
    """The flow of a recipe, which is checked as far as it can be before anything is read.

    Raises:
        PotstillError: The recipe asks for what does not exist.
    """
    if predicts_tokens(recipe, memory):
        return LanguageFlow(recipe, memory, tasks)
    check_recipe(recipe)
    return DistillFlow(recipe, memory, tasks)


def predicts_tokens(recipe: Recipe, memory: InMemory) -> bool:
    """Whether the task is one of tokens: as the recipe says it, else as the teacher's class does."""
    if recipe.tasks or recipe.task in TASKS:
        return False
    if recipe.task in TOKEN_TASKS:
        return True
    endings = tuple(ending for row in TOKEN_TASKS.values() for ending in row)
    if memory.teacher is not None:
        return type(memory.teacher).__name__.endswith(endings)
    if recipe.teacher.model == IN_MEMORY or ":" in recipe.teacher.model:
        return False
    names = getattr(read_config(recipe.teacher), "architectures", None) or ()
    return any(name.endswith(endings) for name in names)
