"""Stage `chain`: the models between teacher and student, or the generations before it, each trained once and kept."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.data.run_rows import places_in, read_facts
from potstill.ground.devices import placed
from potstill.ground.disk import StageFolder, fingerprint, write_json_atomic
from potstill.knowledge.cache import write_cache
from potstill.knowledge.live import LiveTeacher
from potstill.methods.contract import Phase
from potstill.models.party import Student
from potstill.models.size import parameters_of
from potstill.planning.learning import Learning, LearningOptions, last_shares
from potstill.recipe.model import StudentRecipe
from potstill.students.make import StudentOptions, make_student

LEAST_RATIO = 0.10
CACHE_BATCH = 64


@dataclass(frozen=True)
class ChainOptions(LearningOptions):
    """What training a chain reads of a recipe."""

    max_tokens: int | None = None
    keeps_answers: bool = True


def train_chain(given: Given, options: ChainOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Train every model of the chain but the student, each taught by the one before."""
    learning = Learning(options, given.rows, given.teachers, given.student, observer)
    model, _ = learning.student.load(without_dropout=True)
    phases = [phase for phase in learning.phases(model) if phase.learner != "student"]
    notes = []
    for place, phase in enumerate(phases):
        own = replace(phase, settings=_settings(phase, options.seed, place))
        model, note = _train_model(learning, own, folder / phase.learner, options)
        learning = replace(learning, chain={**learning.chain, phase.learner: model})
        notes.append(note)
    for training in folder.glob("*/training"):  # kept until here, so that a finished model is not trained again after a kill
        shutil.rmtree(training)
    return notes


def open_chain(folder: Path, given: Given) -> dict[str, Student]:
    """Name → model of the chain, in the order in which they were trained; empty where there is none."""
    places = [place for place in folder.iterdir() if (place / "model").is_dir()] if folder.is_dir() else []
    ordered = sorted(places, key=lambda place: int(place.name.rpartition("-")[2]))
    return {place.name: _trained(place, _started(place, given.student)) for place in ordered}


def learned_shares(folder: Path) -> list[float] | None:
    """The weights of several teachers that a model was trained with; None where they were not learned."""
    found: list[float] | None = read_facts(folder).get("teacher_weights")
    return found


def _trained(place: Path, start: Student) -> Student:
    answers = place / "answers"
    return start.version(place / "model", name=place.name, cache=answers if answers.is_dir() else None)


def _started(place: Path, student: Student) -> Student:
    """The first version of a model: cut for itself, or that of the student."""
    start = place / "start"
    if not start.is_dir():
        return student
    places = places_in(start / "encoded") or student.rows.places
    return replace(student, places=places, folder=start / "model", start=start, facts=read_facts(start), measured={}, _opened={})


def _train_model(learning: Learning, phase: Phase, place: Path, options: ChainOptions) -> tuple[Student, str]:
    if phase.parameters is not None:
        _start(learning, phase, place, options)
    own = replace(learning, student=_started(place, learning.student))
    model, processor = own.student.load(without_dropout=True)
    weights = own.learned_weights() if phase.teacher == "teacher" else None
    outcome = own.train(model, processor, phase, place / "training", weights=weights)
    model.save_pretrained(place / "model")
    processor.save_pretrained(place / "model")
    shares = last_shares(outcome.history, len(own.teachers))
    facts = {key: getattr(outcome, key) for key in ("history", "best", "steps", "precision")}
    write_json_atomic(place / "facts.json", {**facts, "teacher_weights": shares})
    if options.keeps_answers:
        rows = own.student.encoded(*own.rows.names)
        with placed(model):
            write_cache(LiveTeacher(model), rows, own.rows.task.collator(processor), place / "answers", batch_size=CACHE_BATCH)
    note = own.outcome_line(f"{phase.learner}, {parameters_of(model):,} parameters", outcome)
    return _trained(place, own.student), note


def _start(learning: Learning, phase: Phase, place: Path, options: ChainOptions) -> None:
    """Cut the first weights of a model out of the teacher."""
    assert phase.parameters is not None
    ratio = max(LEAST_RATIO, 1.0 - phase.parameters / parameters_of(learning.teacher.model))
    student = StudentRecipe(ratio=ratio, vocabulary=options.student.vocabulary)
    with StageFolder(place / "start", fingerprint({"learner": phase.learner, "ratio": ratio})) as start:
        if not start.is_finished():
            asked = StudentOptions(student, options.max_tokens, options.seed)
            make_student(asked, learning.rows, learning.teacher, start.path, learning.observer)
            start.finish()


def _settings(phase: Phase, seed: int, place: int) -> dict[str, Any]:
    """Generations of one shape see their rows in other orders."""
    return {**phase.settings, **({"seed": seed + 1 + place} if phase.parameters is None else {})}
