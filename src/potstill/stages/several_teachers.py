"""Further teachers of a run: each read, taught and asked by stages of its own, then heard together with the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.errors import RecipeError
from potstill.ground.devices import compute_device
from potstill.knowledge.ensemble import Confidence, EnsembleTeacher, combine
from potstill.stages.stage import Stage
from potstill.stages.teach import cache_answers, teach, wants_cache
from potstill.stages.teacher_snapshots import check_states
from potstill.stages.user_inputs import content_of, load_given, wants_training

if TYPE_CHECKING:
    from potstill.contracts.source import TeacherSource
    from potstill.recipe import Recipe
    from potstill.stages.context import Run
    from potstill.training.teacher_weights import TeacherWeights

TASKS = ("text-classification", "image-classification")
CONFIDENCES: dict[str, Confidence] = {"confidence": "entropy", "max_probability": "max", "agreement": "label"}


def numbers(recipe: Recipe) -> range:
    """The numbers of the further teachers: 2, 3 …"""
    return range(2, 2 + len(recipe.teacher.others))


def stages_of_others(recipe: Recipe) -> tuple[list[Stage], list[Stage]]:
    """The stages that read and teach each further teacher, and those that ask it, in order."""
    taught, asked = [], []
    for number in numbers(recipe):
        taught.append(
            Stage(
                name=f"teach-{number}",
                title=f"read with teacher {number}, and train its head where it is new",
                folder=f"work/teachers/{number}",
                reads=(f"teacher.others.{number - 2}", "data.max_tokens", "seed", "precision"),
                depends_on=("data",),
                work=partial(teach_other, number=number),
                given=partial(_given, number=number),
            )
        )
        asked.append(
            Stage(
                name=f"cache-{number}",
                title=f"keep the answers of teacher {number}",
                folder=f"work/answers/{number}",
                reads=("data.max_tokens",),
                depends_on=("data", "augment", f"teach-{number}"),
                work=partial(ask_other, number=number),
                given=wants_cache,
            )
        )
    return taught, asked


def other_teacher(run: Run, number: int, *, taught: str | None = None, asked: str | None = None) -> Run:
    """The run as teacher `number` sees it: its own model, tokens and answers.

    Args:
        run: The run of the first teacher.
        number: 2 or more.
        taught: Folder of its first stage while that runs, below the output folder.
        asked: Folder of its second stage while that runs.
    """

    def make() -> Run:
        first, second = taught or f"work/teachers/{number}", asked or f"work/answers/{number}"
        places = replace(
            run.places, teacher=f"{first}/model", encoded=f"{first}/encoded", augmented=f"{second}/augmented", cache=second
        )
        return run.variant(places=places, teacher=run.recipe.teacher.others[number - 2])

    return make() if taught or asked else run._once(f"teacher {number}", "work/teachers", make)


def teach_other(run: Run, folder: Path, *, number: int) -> Sequence[str]:
    """Encode every split in this teacher's tokens, and train it where its head is new."""
    other = other_teacher(run, number, taught=folder.relative_to(run.folder).as_posix())
    return [note.replace("teacher:", f"teacher {number}:") for note in read_and_teach(other, folder)]


def read_and_teach(other: Run, folder: Path) -> Sequence[str]:
    """Encode every split of a run in its teacher's tokens, and train that teacher where its head is new.

    Args:
        other: The run as a further teacher sees it.
        folder: Receives the rows and the teacher.
    """
    loaded = load_given(other, other.label_names)
    for name in ("train", "validation", "test", "unlabelled"):
        if other.has(name):
            place = folder / "encoded" / name
            other.task.encode(other.split(name), loaded.processor, place, max_tokens=other.recipe.data.max_tokens)
    if not wants_training(other):
        return list(loaded.notes)
    (folder / "model").mkdir(exist_ok=True)
    return teach(other, folder / "model")


def ask_other(run: Run, folder: Path, *, number: int) -> Sequence[str]:
    """Encode the augmented rows in this teacher's tokens, and keep its answers to all rows where they are cached."""
    return read_and_ask(other_teacher(run, number, asked=folder.relative_to(run.folder).as_posix()), folder)


def read_and_ask(other: Run, folder: Path) -> Sequence[str]:
    """Encode the augmented rows of a run in its teacher's tokens, and keep the answers to all rows where they are cached."""
    if other.has("augmented"):
        place, processor = folder / "augmented", other.teacher.processor
        other.task.encode(other.split("augmented"), processor, place, max_tokens=other.recipe.data.max_tokens)
    return cache_answers(other, folder, keeps_states=False) if wants_cache(other) else []


def wants_teaching(run: Run) -> bool:
    """Whether the first teacher is trained in this run; refuses, before that, what could not be taught from it.

    Raises:
        RecipeError: Several teachers cannot be heard together, or there will be no states to follow.
    """
    check_teachers(run)
    is_trained = wants_training(run)
    check_states(run, is_trained=is_trained)
    return is_trained


def check_teachers(run: Run) -> None:
    """Make sure that these teachers can be heard together, before anything is trained.

    Raises:
        RecipeError: The task has no one class per row.
    """
    if run.recipe.teacher.others and run.task.name not in TASKS:
        raise RecipeError(
            f"{len(run.recipe.teacher.all)} teachers are given for {run.task.name}",
            f"one teacher; several are mixed as probabilities of one class per row, for {' and '.join(TASKS)}",
            "leave one teacher",
        )


def together(run: Run, first: TeacherSource, weights: TeacherWeights | None = None) -> TeacherSource:
    """The first teacher's source with the answers of all teachers; its inner values stay the first one's.

    Args:
        run: The run.
        first: What a run with one teacher listens to.
        weights: The learned weights, for `combine: learned`.
    """
    from potstill.stages.teacher_sources import LayeredSource

    if not run.recipe.teacher.others:
        return first
    sources = [first, *(answers_of_teacher(other_teacher(run, number)) for number in numbers(run.recipe))]
    recipe = run.recipe.teacher
    shares: Any = recipe.weights if weights is None else weights.shares
    return LayeredSource(EnsembleTeacher(sources, shares, confidence=CONFIDENCES.get(recipe.combine, "none")), first)


def learned_weights(run: Run, start: Sequence[float] | None = None) -> TeacherWeights | None:
    """A new set of weights for `combine: learned`; None where the recipe combines in another way."""
    from potstill.training.teacher_weights import TeacherWeights

    recipe = run.recipe.teacher
    return TeacherWeights(len(recipe.all), start or recipe.weights) if recipe.combine == "learned" else None


def last_shares(history: Sequence[dict[str, Any]], count: int) -> list[float] | None:
    """The learned weights that a stage logged last, normalised; None where it logged none."""
    names = [f"loss/teacher_weights/teacher_{number}" for number in range(1, count + 1)]
    told = [entry for entry in history if names[0] in entry]
    if not told:
        return None
    found = [float(told[-1][name]) for name in names]
    return [share / sum(found) for share in found]


def mixed_answers(run: Run, logits: Sequence[np.ndarray]) -> np.ndarray:
    """What the teachers together answer [N, C]; without labels, which a served ensemble would not have either.

    Args:
        run: The run.
        logits: [N, C] of each teacher, in the same order of rows.
    """
    import torch

    recipe = run.recipe.teacher
    shares = _learned_shares(run) if recipe.combine == "learned" else recipe.weights
    weights = torch.tensor(shares or [1.0] * len(logits))
    logs = torch.stack([torch.from_numpy(one).float().log_softmax(-1) for one in logits])
    kind = CONFIDENCES.get(recipe.combine, "none")
    return combine(logs, weights / weights.sum(), confidence=kind).numpy()


def _learned_shares(run: Run) -> list[float] | None:
    """As the student learned them, or the first model of a chain, which alone hears the teachers."""
    from potstill.stages.chain import FOLDER, links

    places = ["student", *(f"{FOLDER}/{name}" for name in links(run)[:1])]
    return next((found for place in places if (found := run.facts(place).get("teacher_weights"))), None)


def answers_of_teacher(other: Run) -> TeacherSource:
    """A run's own teacher by itself: its cached answers, or the live model on its own tokens."""
    from potstill.knowledge.live import LiveTeacher
    from potstill.stages.teacher_sources import cached_answers, live_rows

    live = LiveTeacher(other.teacher.model, device=compute_device())
    if (other.folder / other.places.cache / "logits").is_dir():
        return cached_answers(other, live.fingerprint)
    return live_rows(other, live, token_values=False)


def _given(run: Run, *, number: int) -> Any:
    return content_of(run.recipe.teacher.others[number - 2].model)
