"""One stage to the end. Usage: python stage_run.py FOLDER RESULT"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from small_models import HiddenBridge, Rows, collate, encoder, opinionated

from potstill.training.phase_settings import PhaseSettings
from potstill.training.phases import train_phase
from potstill.training.schedules import Linear
from potstill.training.terms import Term


class Accuracy:
    """The measure of the test."""

    metric = "accuracy"

    def quality(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {"accuracy": float((logits.argmax(-1) == labels).mean())}


def run(folder: str, *, pause: float = 0.0, **options):
    """Train the same stage every time."""
    steps: list[int] = []

    def told(done: int, total: int, figures: object) -> None:
        time.sleep(pause)
        steps.append(done)

    outcome = train_phase(
        encoder(seed=1, dropout=0.1),
        rows=Rows(24),
        eval_rows=Rows(12, seed=3),
        collator=collate,
        folder=folder,
        task=Accuracy(),
        teacher=opinionated(),
        terms=["kl", "ce", Term("hint", HiddenBridge(), Linear(1.0, 0.1))],
        settings=PhaseSettings(**{"epochs": 6, "learning_rate": 5e-3, "batch_size": 4, "average_decay": 0.9, **options}),
        on_progress=told,
    )
    return outcome, steps


if __name__ == "__main__":
    found, _ = run(sys.argv[1], pause=0.2)
    torch.save(found.model.state_dict(), sys.argv[2])
