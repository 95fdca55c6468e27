"""The phases of training that a recipe asks for, from facts about its task and its two models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from potstill.contracts.answers import Answers
from potstill.errors import PotstillError
from potstill.methods.catalogue import EXAMPLES, chosen
from potstill.methods.catalogue import build as build_method
from potstill.methods.contract import MethodOptions, ModelFacts, Phase
from potstill.methods.response import in_units
from potstill.planning.loss_table import read_losses
from potstill.recipe import Recipe

if TYPE_CHECKING:
    from potstill.contracts.task import Task

CUSTOM_EPOCHS, CUSTOM_RATE = 8.0, 3e-4


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run once its rows are read.

    Args:
        num_labels: Labels of the data; 0 where the answers are not named.
        answers: What is answered and which losses teach it, with the scales of the training labels.
        num_states: Earlier states of the teacher that are there to follow.
    """

    recipe: Recipe
    task: Task
    teacher_config: Any
    num_labels: int
    answers: Answers
    num_states: int = 0


def phases_of(run: RunFacts, student: ModelFacts, teacher: ModelFacts, *, has_same_tokens: bool) -> tuple[Phase, ...]:
    """The phases of the recipe's method, or one phase of the recipe's own losses.

    Raises:
        RecipeError: A method, loss or block that does not exist.
        NeedsError: The method needs what the models do not have.
    """
    recipe = run.recipe.distill
    if recipe.losses is not None:
        terms = in_units(read_losses(recipe.losses, student, teacher, layers=recipe.layers), run.answers)
        return (Phase("custom", terms, recipe.epochs or CUSTOM_EPOCHS, recipe.learning_rate or CUSTOM_RATE),)
    options = MethodOptions(
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        temperature=recipe.temperature,
        alpha=recipe.alpha,
        layers=recipe.layers,
        has_same_tokens=has_same_tokens,
        answers=run.answers,
        own=recipe.options,
        anchors=run.num_states,
        has_taps=not run.recipe.tasks,
    )
    return build_method(method_of(run.recipe, run.task), student, teacher, options)


def asks_teacher(run: RunFacts) -> bool:
    """Whether the losses read the teacher's answers, judged by two models of the run's kind; True where these do not say."""
    student, teacher = next(pair for pair in EXAMPLES if pair[0].modality == run.task.modality.name)
    try:
        phases = phases_of(run, student, teacher, has_same_tokens=True)
    except PotstillError:
        return True
    return any(phase.asks_teacher() for phase in phases)


def method_of(recipe: Recipe, task: Task) -> str:
    """The recipe's method for a task."""
    return chosen(recipe.distill.method, makes_rows=task.modality.can_augment)
