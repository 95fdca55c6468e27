"""Earlier states of the teacher: kept by the `teach` stage or named by the recipe, heard one after the other by method rco."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import RecipeError
from potstill.ground.devices import compute_device
from potstill.recipe.model import OneTeacherRecipe
from potstill.stages.user_inputs import content_of
from potstill.training.route import WEIGHTS, evenly, step_of

if TYPE_CHECKING:
    from potstill.contracts.source import TeacherSource
    from potstill.stages.context import Run

logger = logging.getLogger(__name__)

NOT_STATES = ("stage.json", "facts.json", WEIGHTS)


def keep_anchors(route: Path, teacher: Path, count: int, *, end: float | None = None) -> None:
    """Make models of `count` states of a route, beside the trained teacher: ``anchors/anchor-1`` and so on.

    The route ends where the teacher was best, so that no state is later than the teacher that is kept.

    Args:
        route: What `RouteKeeper` kept.
        teacher: The trained teacher, with its configuration and its tokenizer or image processor.
        count: How many.
        end: Optimizer steps that the kept teacher has done; None for all.
    """
    states = list(route.glob("step-*.safetensors"))
    files = evenly([file for file in states if end is None or step_of(file) <= end], count)
    if len(files) < count:
        logger.warning(
            "the teacher was best so early that %d of %d states before it are kept; raise teacher.epochs for more",
            len(files),
            count,
        )
    for number, file in enumerate(files, start=1):
        place = teacher / "anchors" / f"anchor-{number}"
        place.mkdir(parents=True, exist_ok=True)
        for beside in teacher.iterdir():
            if beside.is_file() and beside.name not in NOT_STATES:
                shutil.copyfile(beside, place / beside.name)
        shutil.copyfile(file, place / WEIGHTS)


def num_anchors(run: Run) -> int:
    """How many states this run has."""
    named = run.recipe.distill.chain.route
    return len(named) if named else len(list((run.folder / run.places.teacher / "anchors").glob("anchor-*")))


def anchor_source(run: Run, name: str) -> TeacherSource:
    """A state of the teacher as a live source, on the teacher's own tokens.

    Args:
        run: The run.
        name: "anchor-1" and so on.
    """
    from potstill.knowledge.live import LiveTeacher
    from potstill.stages.teacher_sources import live_rows

    named = run.recipe.distill.chain.route
    if named:
        place = f"{run.places.teacher}/none"
        teacher = OneTeacherRecipe(model=named[int(name.rpartition("-")[2]) - 1], finetune="never")
    else:
        place, teacher = f"{run.places.teacher}/anchors/{name}", run.recipe.teacher
    state = run.variant(places=replace(run.places, teacher=place), teacher=teacher)
    return live_rows(state, LiveTeacher(state.teacher.model, device=compute_device()), token_values=False)


def check_states(run: Run, *, is_trained: bool) -> None:
    """Make sure that method rco will find states of the teacher.

    Args:
        run: The run.
        is_trained: Whether this run trains the teacher.

    Raises:
        RecipeError: There will be none.
    """
    if run.recipe.distill.method == "rco" and not run.recipe.distill.chain.route and not is_trained:
        raise RecipeError(
            "method 'rco' follows earlier states of the teacher, and this teacher is trained already",
            "folders of its states, or a teacher that this run trains",
            "name its states in distill.chain.route, set teacher.finetune: always, or distill.method: kd",
        )


def route_content(run: Run) -> Any:
    """What the fingerprint of training is made from: the states that the recipe names."""
    return [content_of(folder) for folder in run.recipe.distill.chain.route]
