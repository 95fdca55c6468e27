"""Which flow a recipe takes: rows with answers, or tokens of a language."""

from __future__ import annotations

from collections.abc import Mapping

from potstill.contracts.task import TASKS, TOKEN_TASKS
from potstill.errors import PotstillError
from potstill.flows.distill import DistillFlow
from potstill.flows.language import LanguageFlow
from potstill.planning.check import check_all, check_reporting
from potstill.planning.first_check import check_names
from potstill.planning.inputs import InMemory, read_config
from potstill.recipe import Recipe
from potstill.recipe.model import IN_MEMORY


def flow_for(recipe: Recipe, memory: InMemory, tasks: Mapping[str, InMemory]) -> DistillFlow | LanguageFlow:
    """The flow of a recipe, which is checked as far as it can be before anything is read.

    Raises:
        PotstillError: The recipe asks for what does not exist.
    """
    if _is_language(recipe, memory):
        check_names(recipe, allows_memory=True)
        check_reporting(recipe)
        return LanguageFlow(recipe, memory, tasks)
    check_all(recipe, allows_memory=True)
    return DistillFlow(recipe, memory, tasks)


def _is_language(recipe: Recipe, memory: InMemory) -> bool:
    """As `predicts_tokens`; a teacher that cannot be read is refused together with what else is wrong."""
    try:
        return predicts_tokens(recipe, memory)
    except PotstillError:
        check_all(recipe, allows_memory=True)
        raise


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
