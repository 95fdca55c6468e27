"""Training of a student, phase by phase: who teaches it, on which rows, with which losses and settings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from potstill.contracts.source import TeacherSource
from potstill.contracts.stage import Observer
from potstill.data.encoded import EncodedRows
from potstill.data.run_rows import LEARNED, Rows
from potstill.ground.counted import counted
from potstill.knowledge.teachers import (
    Combination,
    answers_of_student,
    live_teacher,
    num_snapshots,
    snapshot,
    training_collator,
    training_source,
)
from potstill.losses.per_task import PerTask
from potstill.methods.contract import ModelFacts, Phase, facts_of
from potstill.models.load import LoadedTeacher
from potstill.models.party import Student, Teacher
from potstill.planning.block_means import with_states
from potstill.planning.measured_start import ROWS, match, reads_pairs, reads_start, start_error, training_batches
from potstill.planning.phases import RunFacts, phases_of
from potstill.recipe import Recipe
from potstill.recipe.model import DistillRecipe, StudentRecipe
from potstill.training.checkpoints import CHECKPOINTS, where_to_go_on
from potstill.training.phase_settings import PhaseSettings
from potstill.training.phases import PhaseOutcome, train_phase
from potstill.training.precision import rounding_note
from potstill.training.reporting import Reporting
from potstill.training.row_plan import RowPlan
from potstill.training.teacher_weights import TeacherWeights
from potstill.training.terms import read_terms


@dataclass(frozen=True)
class LearningOptions:
    """What training reads of a recipe.

    Args:
        route: Contents of the teacher's states that the recipe names.
        code: Fingerprints of the user's code that the recipe names.
        reporting: Who follows training.
        load_teacher: Loads an earlier state of the teacher from a folder.
    """

    distill: DistillRecipe
    student: StudentRecipe
    combination: Combination
    tasks: tuple[str, ...]
    seed: int
    precision: str
    route: Any = None
    code: tuple[str, ...] = ()
    reporting: Reporting = field(default_factory=Reporting, compare=False)
    load_teacher: Callable[[Path], LoadedTeacher] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Learning:
    """A student, its teachers and its rows.

    Args:
        chain: Model of a chain → it, once it is trained.
    """

    options: LearningOptions
    rows: Rows
    teachers: tuple[Teacher, ...]
    student: Student
    observer: Observer
    chain: dict[str, Student] = field(default_factory=dict)

    @property
    def teacher(self) -> Teacher:
        """The first teacher, which the student was cut out of."""
        return self.teachers[0]

    def phases(self, model: Any) -> tuple[Phase, ...]:
        """The phases of the recipe's method, or the one phase of the recipe's own losses, for this student.

        What the method leaves to a measurement is measured here, once for a version of the student.

        Args:
            model: The student as it is before the first phase.
        """
        own = facts_of(model, kept_layers=self.student.kept_layers)
        teacher = with_states(facts_of(self.teacher.model), self.teachers, self.options.seed)
        planned = self._planned(own, teacher)
        measured, asked, known = own, self.options.distill, self.student.measured
        if reads_start(asked, self.student, planned):
            if "start error" not in known:
                self._measure_start(model)
            measured = replace(measured, start_error=known["start error"])
        if reads_pairs(asked, planned):
            if "matched" not in known:
                self._match(model, measured, teacher)
            measured = replace(measured, matched=known["matched"])
        return planned if measured is own else self._planned(measured, teacher)

    def _planned(self, student: ModelFacts, teacher: ModelFacts) -> tuple[Phase, ...]:
        options: Any = self.options
        known = RunFacts(
            options,
            self.rows.task,
            self.teacher.model.config,
            len(self.rows.label_names),
            self.rows.answers,
            num_snapshots(self.teacher, self._named_states),
        )
        return phases_of(known, student, teacher, has_same_tokens=not self.student.has_own_tokens)

    @property
    def _named_states(self) -> Sequence[str]:
        """Folders of earlier states of the teacher that the recipe names."""
        return self.options.distill.options.get("route", ())

    def _measure_start(self, model: Any) -> None:
        source, batches = self.knowledge(), training_batches(self.student, self.teacher, self.options.seed)
        self.student.measured["start error"] = error = start_error(self.student, model, source, batches)
        self.observer.note(f"before training the student misses {error:.1%} of what the teacher's answers say ({ROWS} rows)")

    def _match(self, model: Any, own: ModelFacts, teacher: ModelFacts) -> None:
        is_random = self.options.student.architecture is not None
        found = match(self.student, model, self.teacher, (own, teacher), self.options.seed, is_random=is_random)
        self.student.measured["matched"] = found.pairs
        self.observer.note(str(found))

    def knowledge(self, weights: TeacherWeights | None = None) -> TeacherSource:
        """The knowledge of all teachers."""
        return training_source(self.teachers, self.student, self.options.combination, weights)

    def learned_weights(self, start: Sequence[float] | None = None) -> TeacherWeights | None:
        """New weights of several teachers that are learned with the student; None where they are set otherwise."""
        combination = self.options.combination
        return TeacherWeights(len(self.teachers), start or combination.weights) if combination.is_learned else None

    def source(self, phase: Phase, weights: TeacherWeights | None = None) -> TeacherSource | None:
        """The source of knowledge of a phase: the teachers, an earlier state or a model of the chain; the live teacher on the
        batch as it is; or none, where the student learns from itself."""
        found = phase.companions()
        if any(kind.replaces_teacher for kind in found):
            return None
        if any(kind.changes_inputs for kind in found):
            return live_teacher(self.teacher)
        if phase.teacher == "teacher":
            return self.knowledge(weights)
        if phase.teacher in self.chain:
            return answers_of_student(self.chain[phase.teacher])
        assert self.options.load_teacher is not None
        return snapshot(self.teacher, phase.teacher, self.options.load_teacher, self._named_states)

    def training_rows(self, phase: Phase) -> EncodedRows:
        """The rows of a phase in the student's tokens."""
        names = ("train",) if phase.rows == "labelled" else tuple(name for name in LEARNED if self.rows.has(name))
        return self.student.encoded(*names)

    def settings(self, phase: Phase, *, max_steps: int | None = None, is_taught: bool = True) -> PhaseSettings:
        """How a phase is trained."""
        asked = self.options.distill
        given: dict[str, Any] = {
            "epochs": phase.epochs,
            "learning_rate": phase.learning_rate,
            "batch_size": asked.batch_size,
            "accumulation": asked.accumulation,
            "seed": self.options.seed,
            "precision": self.options.precision,
            "select": phase.select if asked.select == "auto" else asked.select,
            "patience": asked.patience,
            "max_steps": max_steps,
        }
        if is_taught:
            given |= {"rows": RowPlan(**asked.rows.model_dump()), "balance": asked.balance}
        return PhaseSettings(**{**given, **phase.settings})

    def train(
        self,
        model: Any,
        processor: Any,
        phase: Phase,
        folder: Path,
        *,
        max_steps: int | None = None,
        is_taught: bool = True,
        weights: TeacherWeights | None = None,
    ) -> PhaseOutcome:
        """Carry out one phase, on disk.

        Args:
            folder: Of this phase alone.
            is_taught: Whether there is a teacher, or labels alone.
            weights: Learned weights of several teachers, trained with the student.
        """
        self.observer.stage_step(phase.name if phase.learner == "student" else f"{phase.learner}: {phase.name}")
        say_where(folder, self.observer)
        outcome = train_phase(
            model,
            rows=self.training_rows(phase),
            eval_rows=self.student.encoded("validation"),
            collator=training_collator(self.student, processor),
            folder=folder,
            terms=[*self._losses(phase), *([] if weights is None else [weights])],
            teacher=self.source(phase, weights) if is_taught else None,
            task=self.rows.task,
            settings=self.settings(phase, max_steps=max_steps, is_taught=is_taught),
            on_progress=progress(self.observer),
            callbacks=self.options.reporting.of_phase(_shown_as(phase, is_taught=is_taught)),
        )
        note = rounding_note(outcome.precision)
        if note:
            self.observer.note(f"{phase.name}: {note}")
        return outcome

    def _losses(self, phase: Phase) -> Sequence[Any]:
        """The terms of a phase; of several tasks, each compared inside the classes of the row's own."""
        losses = [term.as_loss() for term in phase.terms]
        return [replace(term, loss=PerTask(term.loss)) for term in read_terms(losses)] if self.options.tasks else losses

    def outcome_line(self, who: str, outcome: PhaseOutcome) -> str:
        """A line on how training ended."""
        name = self.rows.metric
        metric = outcome.best.get(f"eval_{name}")
        found = "" if metric is None or math.isnan(metric) else f" {name} {metric:.4f} on validation,"
        return f"{who}:{found} {counted(outcome.steps, 'step')} in {outcome.seconds:.0f} s{_peers_line(name, outcome)}"


def _shown_as(phase: Phase, *, is_taught: bool) -> str:
    """The name of a phase as trackers show it."""
    if not is_taught:
        return f"baseline: {phase.name}"
    return phase.name if phase.learner == "student" else f"{phase.learner}: {phase.name}"


def reporting_of(recipe: Recipe, callbacks: Sequence[Any] = ()) -> Reporting:
    """Who follows the training of a run: as the recipe says, and callbacks in memory."""
    trackers, code = tuple(recipe.report_to), tuple(recipe.callbacks)
    return Reporting(trackers, code, tuple(callbacks), Path(recipe.output) / "tensorboard")


def last_shares(history: Sequence[dict[str, Any]], count: int) -> list[float] | None:
    """The learned weights that a phase logged last, normalised; None where it logged none."""
    names = [f"loss/teacher_weights/teacher_{number}" for number in range(1, count + 1)]
    logged = [entry for entry in history if names[0] in entry]
    if not logged:
        return None
    found = [float(logged[-1][name]) for name in names]
    return [share / sum(found) for share in found]


def progress(observer: Observer) -> Callable[..., None]:
    """A callback (done, total, figures) that moves the bar of the running stage."""

    def advance(done: int, total: int, figures: Any = None) -> None:
        shown = {key: float(value) for key, value in (figures or {}).items() if isinstance(value, int | float)}
        observer.stage_advanced(done, total, shown)

    return advance


def say_where(folder: Path, observer: Observer) -> None:
    """Say from which step a phase of training goes on that was stopped."""
    place = where_to_go_on(folder / CHECKPOINTS)
    if place is not None:
        observer.note(f"goes on from {place}")


def _peers_line(metric: str, outcome: PhaseOutcome) -> str:
    """Which of several peers was kept, and how good each one is."""
    if "eval_best_peer" not in outcome.best:
        return ""
    figures = [outcome.best[key] for key in sorted(outcome.best) if re.fullmatch(rf"eval_peer_\d_{metric}", key)]
    each = f" ({metric} of each: {', '.join(f'{figure:.4f}' for figure in figures)})" if figures else ""
    return f"; network {outcome.best['eval_best_peer']:.0f} of the peers is kept{each}"
