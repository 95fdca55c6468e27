"""Stages `baseline` and `distill`: the same student taught by labels alone, and by the teacher."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.data.encoded import EncodedRows
from potstill.ground.disk import write_json_atomic
from potstill.losses.per_task import PerTask
from potstill.methods.contract import MethodOptions, Phase
from potstill.methods.response import label_term
from potstill.planning.phases import known_facts, phases_of
from potstill.stages.cached_block_means import with_states
from potstill.stages.chain import source_of
from potstill.stages.matching import matched_facts, reads_pairs
from potstill.stages.run_facts import run_facts
from potstill.stages.several_teachers import last_shares, learned_weights
from potstill.stages.start_error import reads_start, started_facts
from potstill.stages.student import kept_layers, load_student
from potstill.stages.teacher_sources import has_own_tokens, live_teacher, training_collator
from potstill.training.companions.catalogue import kinds
from potstill.training.companions.contract import Companion
from potstill.training.phase_settings import PhaseSettings, total_steps
from potstill.training.phases import PhaseOutcome, train_phase
from potstill.training.precision import rounding_note
from potstill.training.row_plan import RowPlan
from potstill.training.terms import read_terms

if TYPE_CHECKING:
    from potstill.stages.context import Run
    from potstill.training.teacher_weights import TeacherWeights

BASELINE_EVALUATIONS, BASELINE_PATIENCE = 20, 5


def distill(run: Run, folder: Path) -> Sequence[str]:
    """Teach the student what the teacher says, and what happens inside it."""
    student, processor = load_student(run, run.folder / "work/student/model", without_dropout=True)
    stages = [spec for spec in stages_of(run, student) if spec.learner == "student"]
    if any(kind.wants_dropout for spec in stages for kind in _companions(spec)):
        student, processor = load_student(run, run.folder / run.places.student / "model")  # it and its average differ by dropout
    outcomes: list[PhaseOutcome] = []
    shares = None
    for spec in stages:
        is_asked = spec.teacher == "teacher" and not any(one.replaces_teacher or one.changes_inputs for one in _companions(spec))
        weights = learned_weights(run, shares) if is_asked else None
        outcomes.append(train(run, student, processor, spec, folder / "training" / spec.name, weights=weights))
        shares = last_shares(outcomes[-1].history, len(run.recipe.teacher.all)) or shares
    student.save_pretrained(folder)
    if hasattr(run.task, "save_beside"):
        run.task.save_beside(student, folder)
    processor.save_pretrained(folder)
    records = [
        {"name": spec.name, **{key: getattr(outcome, key) for key in ("history", "best", "steps", "seconds", "precision")}}
        for spec, outcome in zip(stages, outcomes, strict=True)
    ]
    facts = {"stages": records, "method": run.recipe.distill.method, "teacher_weights": shares}
    write_json_atomic(folder / "facts.json", facts)
    shutil.rmtree(folder / "training")
    learned = [] if shares is None else [f"learned weights of the teachers: {', '.join(f'{share:.3f}' for share in shares)}"]
    return [told(run, "student", outcomes[-1]), *learned]


def train_baseline(run: Run, folder: Path) -> Sequence[str]:
    """Teach the same cut student by the labels alone, with at most as many steps as distillation makes.

    Labels are few and many passes only overfit, so it ends where validation no longer gains; the best checkpoint is kept.
    """
    student, processor = load_student(run, run.folder / "work/student/model")
    stages = [spec for spec in stages_of(run, student) if spec.learner == "student"]
    steps = sum(total_steps(len(_rows(run, spec)), _settings(run, spec)) for spec in stages)
    last = stages[-1]
    plain: dict[str, Any] = {"patience": run.recipe.distill.patience or BASELINE_PATIENCE, "evaluations": BASELINE_EVALUATIONS}
    plain |= {name: value for name, value in last.settings.items() if name != "companions"}
    term = label_term(MethodOptions(answers=run.answers))
    labelled = Phase("labels", (term,), last.epochs, last.learning_rate, rows="labelled", settings=plain)
    outcome = train(run, student, processor, labelled, folder / "training", max_steps=steps, teacher=None)
    student.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    facts = {key: getattr(outcome, key) for key in ("history", "best", "steps", "precision")}
    write_json_atomic(folder / "facts.json", facts)
    shutil.rmtree(folder / "training")
    return [told(run, "without distillation", outcome)]


def wants_baseline(run: Run) -> bool:
    """Whether the recipe asks for it."""
    return run.recipe.baseline


def stages_of(run: Run, student: Any) -> tuple[Phase, ...]:
    """The stages of the recipe's method, or one stage of the recipe's own losses."""
    facts, teacher = known_facts(student, kept_layers(run)), with_states(run, known_facts(run.teacher.model))
    same = not has_own_tokens(run)
    known = run_facts(run)
    stages = phases_of(known, facts, teacher, has_same_tokens=same)
    measured = started_facts(run, student, facts) if reads_start(run, stages) else facts
    measured = matched_facts(run, student, measured, teacher) if reads_pairs(run, stages) else measured
    return stages if measured is facts else phases_of(known, measured, teacher, has_same_tokens=same)


def train(
    run: Run,
    student: Any,
    processor: Any,
    spec: Phase,
    folder: Path,
    *,
    max_steps: int | None = None,
    teacher: Any = "the run's",
    weights: TeacherWeights | None = None,
) -> PhaseOutcome:
    """One stage of training, on disk.

    Args:
        run: The run as the learner sees it.
        student: Who is trained, in place.
        processor: Its tokenizer or image processor.
        spec: What it learns.
        folder: Of this stage of training alone.
        max_steps: Stop after so many steps.
        teacher: Whom it listens to, where that is not as `spec` says; None for labels alone.
        weights: Learned weights of several teachers, trained beside it.
    """
    outcome = train_phase(
        student,
        rows=_rows(run, spec),
        eval_rows=run.student_rows("validation"),
        collator=training_collator(run, processor),
        folder=folder,
        terms=[*_losses(run, spec), *([] if weights is None else [weights])],
        teacher=_heard(run, spec, weights) if teacher == "the run's" else teacher,
        task=run.task,
        settings=_settings(run, spec, max_steps=max_steps, is_taught=teacher is not None),
        on_progress=run.progress(),
    )
    note = rounding_note(outcome.precision)
    if note:
        run.observer.note(f"{spec.name}: {note}")
    return outcome


def _heard(run: Run, spec: Phase, weights: TeacherWeights | None) -> Any:
    """The teacher of a phase: the run's source of knowledge, the live teacher on the batch as it is, or none but itself."""
    companions = _companions(spec)
    if any(kind.replaces_teacher for kind in companions):
        return None
    return live_teacher(run) if any(kind.changes_inputs for kind in companions) else source_of(run, spec, weights=weights)


def _companions(spec: Phase) -> list[type[Companion]]:
    return kinds(spec.settings.get("companions", {}))


def _losses(run: Run, spec: Phase) -> Sequence[Any]:
    """The terms of a stage; of several tasks, each compared inside the classes of the row's own."""
    losses = [term.as_loss() for term in spec.terms]
    return [replace(term, loss=PerTask(term.loss)) for term in read_terms(losses)] if run.recipe.tasks else losses


def _rows(run: Run, spec: Phase) -> EncodedRows:
    names = ["train"] if spec.rows == "labelled" else [name for name in ("train", "unlabelled", "augmented") if run.has(name)]
    return run.student_rows(*names)


def _settings(run: Run, spec: Phase, *, max_steps: int | None = None, is_taught: bool = True) -> PhaseSettings:
    recipe = run.recipe.distill
    given: dict[str, Any] = {
        "epochs": spec.epochs,
        "learning_rate": spec.learning_rate,
        "batch_size": recipe.batch_size,
        "accumulation": recipe.accumulation,
        "seed": run.recipe.seed,
        "precision": run.recipe.precision,
        "select": spec.select if recipe.select == "auto" else recipe.select,
        "patience": recipe.patience,
        "max_steps": max_steps,
    }
    if is_taught:
        given |= {"rows": RowPlan(**recipe.rows.model_dump()), "balance": recipe.balance}
    return PhaseSettings(**{**given, **spec.settings})


def told(run: Run, who: str, outcome: PhaseOutcome) -> str:
    """A line on how a stage of training ended."""
    metric = outcome.best.get(f"eval_{run.metric}")
    found = "" if metric is None or math.isnan(metric) else f" {run.metric} {metric:.4f} on validation,"
    return f"{who}:{found} {outcome.steps:,} steps in {outcome.seconds:.0f} s{_told_peers(run, outcome)}"


def _told_peers(run: Run, outcome: PhaseOutcome) -> str:
    """Which of several peers was kept, and how good each one is."""
    if "eval_best_peer" not in outcome.best:
        return ""
    figures = [outcome.best[key] for key in sorted(outcome.best) if re.fullmatch(rf"eval_peer_\d_{run.metric}", key)]
    each = f" ({run.metric} of each: {', '.join(f'{figure:.4f}' for figure in figures)})" if figures else ""
    return f"; network {outcome.best['eval_best_peer']:.0f} of the peers is kept{each}"
