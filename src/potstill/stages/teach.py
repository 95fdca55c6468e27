"""Stage `teach`: a teacher's head trained where it is new; a further teacher also reads the rows in its own tokens."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.data.run_rows import Rows, open_encoded, places_in
from potstill.ground.disk import write_json_atomic
from potstill.models.frozen import freeze
from potstill.models.load import LoadedTeacher, load_teacher
from potstill.models.party import Teacher
from potstill.models.taps import head_of
from potstill.planning.inputs import Inputs, errors_of_task
from potstill.planning.learning import progress, say_where
from potstill.recipe.model import OneTeacherRecipe
from potstill.students.make import encode_rows
from potstill.training.phase_settings import PhaseSettings, usual_evaluations
from potstill.training.phases import train_phase
from potstill.training.precision import rounding_note
from potstill.training.reporting import Reporting
from potstill.training.route import WEIGHTS, RouteKeeper, evenly, step_of

logger = logging.getLogger(__name__)
PRETRAINED_RATE, SCRATCH_RATE = 5e-5, 1e-3
NEW_HEAD_MULTIPLE = 10.0
NOT_STATES = ("stage.json", "facts.json", WEIGHTS)


@dataclass(frozen=True)
class TeachOptions:
    """What training a teacher reads of a recipe.

    Args:
        anchors: Earlier states to keep; None for none.
    """

    teacher: OneTeacherRecipe
    anchors: int | None
    seed: int
    precision: Literal["auto", "fp32", "bf16"]
    max_tokens: int | None = None
    label: str = "teacher"
    reporting: Reporting = field(default_factory=Reporting, compare=False)


def teach(given: Given, options: TeachOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Train the teacher on the labelled rows and keep the best by validation."""
    with errors_of_task(given.inputs.name):
        rows: Rows = given.rows
        return _train(given.inputs, options, rows, rows.places, folder, observer)


def read_and_teach(given: Given, options: TeachOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Encode every split in a further teacher's tokens, and train it where its head is new."""
    inputs: Inputs = given.inputs
    rows: Rows = given.rows
    with errors_of_task(inputs.name):
        loaded = inputs.load(rows.label_names)
        encode_rows(rows, loaded.processor, folder / "encoded", options.max_tokens)
        if not inputs.wants_training(rows.label_names):
            return list(loaded.notes)
        (folder / "model").mkdir(exist_ok=True)
        return _train(inputs, options, rows, places_in(folder / "encoded"), folder / "model", observer)


def wants_teaching(given: Given, options: TeachOptions) -> bool:
    """Whether the teacher is trained in this run."""
    inputs: Inputs = given.inputs
    return inputs.wants_training(given.rows.label_names)


def open_teacher(folder: Path, given: Given, *, name: str = "teacher", own: str = "") -> Teacher:
    """The teacher that was trained in this run, or the given one, with the rows in its tokens.

    Args:
        own: Where the model lies below the folder of a further teacher, which has encoded the rows for itself.
    """
    inputs: Inputs = given.inputs
    rows: Rows = given.rows
    trained = folder / own if own else folder

    def load() -> LoadedTeacher:
        if trained.is_dir():
            return load_teacher(trained, rows.task, label_names=rows.label_names or None)
        return inputs.load(rows.label_names)

    places = places_in(folder / "encoded") if own else rows.places
    return Teacher(name, rows, places, load, trained, number=None if own else rows.number)


def open_with_all_rows(folder: Path, given: Given) -> Teacher:
    """The first task's teacher with the rows of all tasks in its tokens."""
    first: Teacher = given.first
    rows: Rows = given.rows
    return replace(first, rows=rows, places=rows.places, number=None, load=lambda: first.loaded, measured={}, _opened={})


def _train(
    inputs: Inputs, options: TeachOptions, rows: Rows, places: Mapping[str, Path], folder: Path, observer: Observer
) -> Sequence[str]:
    inputs.forget()
    loaded = inputs.load_anew(rows.label_names)
    asked, model, number = options.teacher, loaded.model, rows.number if places is rows.places else None
    train, validation = (open_encoded(places, (name,), number) for name in ("train", "validation"))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    head = head_of(model)
    if loaded.head_is_new and head is not None:
        rows.answers.start_head(head, train.labels)
    settings = PhaseSettings(
        epochs=asked.epochs,
        learning_rate=asked.learning_rate or (SCRATCH_RATE if asked.from_scratch else PRETRAINED_RATE),
        batch_size=asked.batch_size,
        seed=options.seed,
        precision=options.precision,
        select="metric",
        head_multiple=NEW_HEAD_MULTIPLE if loaded.head_is_new and not asked.from_scratch else 1.0,
        evaluations=None if options.anchors is None else max(options.anchors + 1, usual_evaluations(asked.epochs)),
    )
    say_where(folder / "training", observer)
    outcome = train_phase(
        model,
        rows=train,
        eval_rows=validation,
        collator=rows.task.collator(loaded.processor),
        folder=folder / "training",
        terms=[rows.answers.from_labels or {}],
        task=rows.task,
        settings=settings,
        on_progress=progress(observer),
        callbacks=[
            *([RouteKeeper(folder / "training" / "route")] if options.anchors else []),
            *options.reporting.of_phase(options.label),
        ],
    )
    freeze(model)
    model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    if options.anchors:
        _keep_anchors(folder / "training" / "route", folder, options.anchors, end=outcome.best.get("step"))
    metric = outcome.best.get(f"eval_{rows.metric}")
    keys = ("history", "best", "seconds", "precision")
    write_json_atomic(folder / "facts.json", {key: getattr(outcome, key) for key in keys})
    shutil.rmtree(folder / "training")
    reached = None if metric is None else f"{options.label}: {rows.metric} {metric:.4f} on validation"
    return [line for line in (reached, rounding_note(outcome.precision)) if line]


def _keep_anchors(route: Path, teacher: Path, count: int, *, end: float | None = None) -> None:
    """Make models of `count` states of a route, below the trained teacher: ``anchors/anchor-1`` and so on.

    The route ends where the teacher was best, so that no state is later than the teacher that is kept.

    Args:
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
        for other in teacher.iterdir():
            if other.is_file() and other.name not in NOT_STATES:
                shutil.copyfile(other, place / other.name)
        shutil.copyfile(file, place / WEIGHTS)
