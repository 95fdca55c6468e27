"""Stage `distill`: the student taught by the teacher; writes its next version."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.ground.disk import write_json_atomic
from potstill.methods.contract import Phase
from potstill.planning.learning import Learning, LearningOptions, last_shares
from potstill.training.phases import PhaseOutcome


def distill(given: Given, options: LearningOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Teach the student the teacher's answers, and its inner values where the method compares them."""
    learning = Learning(options, given.rows, given.teachers, given.student, observer, given.chain)
    model, processor = learning.student.load(without_dropout=True)
    phases = [phase for phase in learning.phases(model) if phase.learner == "student"]
    if any(kind.wants_dropout for phase in phases for kind in phase.companions()):
        model, processor = learning.student.load()  # it and its average differ by dropout
    outcomes: list[PhaseOutcome] = []
    shares = None
    for phase in phases:
        is_changed = any(kind.replaces_teacher or kind.changes_inputs for kind in phase.companions())
        weights = learning.learned_weights(shares) if phase.teacher == "teacher" and not is_changed else None
        outcomes.append(learning.train(model, processor, phase, folder / "training" / phase.name, weights=weights))
        shares = last_shares(outcomes[-1].history, len(learning.teachers)) or shares
    model.save_pretrained(folder)
    learning.rows.answers.save_extras(model, folder)
    processor.save_pretrained(folder)
    records = [
        {
            "name": phase.name,
            **_planned(phase),
            **{key: getattr(outcome, key) for key in ("history", "best", "steps", "seconds", "precision")},
        }
        for phase, outcome in zip(phases, outcomes, strict=True)
    ]
    write_json_atomic(folder / "facts.json", {"stages": records, "method": options.distill.method, "teacher_weights": shares})
    shutil.rmtree(folder / "training")
    learned = [] if shares is None else [f"learned weights of the teachers: {', '.join(f'{share:.3f}' for share in shares)}"]
    return [learning.outcome_line("student", outcomes[-1]), *learned]


def _planned(phase: Phase) -> dict[str, Any]:
    """What a phase was trained with."""
    return {"epochs": phase.epochs, "learning_rate": phase.learning_rate}
