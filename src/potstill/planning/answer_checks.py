"""What the answers of a task, several teachers or states of the teacher cannot do, refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable

from potstill.contracts.task import Task
from potstill.errors import RecipeError
from potstill.methods.catalogue import require_answers, traits
from potstill.methods.contract import MethodOptions
from potstill.methods.response import in_units
from potstill.planning.loss_table import ANY_MODEL, read_losses
from potstill.recipe import Recipe
from potstill.tasks import plain_tasks
from potstill.training.row_plan import read_row_plan
from potstill.training.row_statistics import no_lengths, refuse_certain


def check_answers(recipe: Recipe, task: Task) -> None:
    """Refuse what the answers of the task cannot do, before anything is read.

    Raises:
        RecipeError: A baseline or a teacher to be trained where rows have no labels to learn from; another architecture for
            embeddings, words or spans.
        NeedsError: A method or losses on class probabilities, where answers are of another kind.
    """
    answers = task.answers()
    if answers.from_labels is None:
        for key, wanted in (
            ("baseline: true", recipe.baseline),
            ("teacher.finetune: always", recipe.teacher.finetune == "always"),
            ("teacher.from_scratch: true", recipe.teacher.from_scratch),
        ):
            if wanted:
                raise RecipeError(
                    f"{key} asks for training on labels, and rows of {task.name} have none",
                    "learning from the teacher alone",
                    f"leave {key.partition(':')[0]} out",
                )
    check_teachers(recipe, task)
    if recipe.student.architecture is not None and not (answers.has_label_names and answers.is_of_row):
        lack = "have no sentence embedding" if answers.is_of_row else "answer whole rows, not their words or places"
        raise RecipeError(
            f"student.architecture is {recipe.student.architecture!r}, and such students {lack}",
            f"for {task.name}: a student cut out of the teacher, or a named one (student.model)",
            "leave student.architecture out",
        )
    plan = read_row_plan(recipe.distill.rows.model_dump())
    refuse_certain(plan, answers)
    if plan.order == "curriculum" and plan.difficulty == "length" and not task.modality.has_tokens:
        raise no_lengths(f"{task.modality.noun} have none")
    if recipe.distill.losses is None:
        require_answers(recipe.distill.method, MethodOptions(answers=answers))
    else:
        in_units(read_losses(recipe.distill.losses, ANY_MODEL, ANY_MODEL), answers)


def check_teachers(recipe: Recipe, task: Task) -> None:
    """Make sure that these teachers can be combined.

    Raises:
        RecipeError: The task has no one class per row.
    """
    if recipe.teacher.others and not task.answers().can_average:
        raise RecipeError(
            f"{len(recipe.teacher.all)} teachers are given for {task.name}",
            f"one teacher; several are mixed as probabilities of one class per row, for {' and '.join(plain_tasks())}",
            "leave one teacher",
        )


def check_states(recipe: Recipe, is_trained: Callable[[], bool]) -> None:
    """Make sure that a method which follows earlier states of the teacher will find some.

    Raises:
        RecipeError: There will be none.
    """
    method = recipe.distill.method
    if traits(method).follows_states and not recipe.distill.options.get("route") and not is_trained():
        raise RecipeError(
            f"method {method!r} follows earlier states of the teacher, and this teacher is trained already",
            "folders of its states, or a teacher that this run trains",
            "name its states in distill.options.route, set teacher.finetune: always, or distill.method: kd",
        )
