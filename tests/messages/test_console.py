"""What a run looks like without a terminal: short lines, each warning once."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from potstill import console
from potstill.console import ConsoleObserver, warnings_shown_by


def observer(num_stages: int = 3) -> tuple[ConsoleObserver, io.StringIO]:
    """An observer that writes into a text."""
    stream = io.StringIO()
    return ConsoleObserver(Console(file=stream, width=100), num_stages=num_stages), stream


def test_stages_that_are_left_out_are_counted() -> None:
    told, stream = observer()
    with told:
        told.stage_started("data", "read")
        told.stage_finished("data", 1.0, skipped=False)
        told.stage_left_out("teach")
        told.stage_started("student", "plan")
        told.stage_finished("student", 1.0, skipped=True)
    assert "1/3  data" in stream.getvalue()
    assert "3/3  student" in stream.getvalue()
    assert "already done" in stream.getvalue()


def test_a_line_of_progress_holds_few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", -1)
    told, stream = observer()
    figures = {
        "loss/kl": 0.5,
        "loss/ce": 0.25,
        "loss": 0.75,
        "learning_rate": 1e-3,
        "grad_norm": 2.0,
        "epoch": 1.0,
        "eval_accuracy": 0.9,
        "eval_macro_f1": 0.8,
    }
    with told:
        told.stage_started("distill", "teach")
        told.stage_advanced(5, 10, figures)
    line = next(line for line in stream.getvalue().splitlines() if "5 of 10" in line)
    assert line.split() == ["5", "of", "10", "loss", "0.75", "accuracy", "0.9", "macro_f1", "0.8"]


def test_nothing_is_said_in_the_first_seconds() -> None:
    told, stream = observer()
    with told:
        told.stage_started("data", "read")
        told.stage_advanced(0, 3, {})
    assert "of 3" not in stream.getvalue()


def test_a_logged_warning_is_told_once() -> None:
    told: list[str] = []
    library = logging.getLogger("potstill.modalities.text.tokenising")
    with warnings_shown_by(told.append):
        for _ in range(2):
            library.warning("%d texts were cut", 3)
        library.info("nothing")
    library.info("after")
    assert told == ["3 texts were cut"]
    assert logging.getLogger("potstill").propagate
