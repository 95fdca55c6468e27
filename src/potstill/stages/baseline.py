"""Stage `baseline`: the same student trained by the labels alone, for comparison."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.ground.disk import write_json_atomic
from potstill.methods.contract import MethodOptions, Phase
from potstill.methods.response import label_term
from potstill.planning.learning import Learning, LearningOptions
from potstill.training.phase_settings import total_steps

EVALUATIONS, PATIENCE = 20, 5


def train_baseline(given: Given, options: LearningOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Train the same cut student by the labels alone, with at most as many steps as distillation makes.

    Labels are few and many passes only overfit, so it ends where validation no longer gains; the best checkpoint is kept.
    """
    learning = Learning(options, given.rows, given.teachers, given.student, observer)
    model, processor = learning.student.load()
    phases = [phase for phase in learning.phases(model) if phase.learner == "student"]
    steps = sum(total_steps(len(learning.training_rows(phase)), learning.settings(phase)) for phase in phases)
    last = phases[-1]
    plain: dict[str, Any] = {"patience": options.distill.patience or PATIENCE, "evaluations": EVALUATIONS}
    plain |= {name: value for name, value in last.settings.items() if name != "companions"}
    term = label_term(MethodOptions(answers=learning.rows.answers))
    labelled = Phase("labels", (term,), last.epochs, last.learning_rate, rows="labelled", settings=plain)
    outcome = learning.train(model, processor, labelled, folder / "training", max_steps=steps, is_taught=False)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    facts = {key: getattr(outcome, key) for key in ("history", "best", "steps", "precision")}
    write_json_atomic(folder / "facts.json", facts)
    shutil.rmtree(folder / "training")
    return [learning.outcome_line("without distillation", outcome)]
