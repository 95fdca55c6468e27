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


def test_stages_are_counted_as_they_run_and_the_end_says_what_was_done() -> None:
    told, stream = observer()
    with told:
        told.stage_started("data", "read")
        told.stage_finished("data", 1.0, skipped=False)
        told.stage_left_out("teach")
        told.stage_started("student", "plan")
        told.stage_finished("student", 1.0, skipped=True)
    assert "1/3  data" in stream.getvalue()
    assert "2/2  student" in stream.getvalue()
    assert "already done  plan" in stream.getvalue()
    assert stream.getvalue().splitlines()[-1].strip() == "1 stage done in 0.0 s; 1 found already done; not needed: teach"


def test_the_end_of_a_run_that_failed_is_not_summed_up() -> None:
    told, stream = observer()

    def fail() -> None:
        with told:
            told.stage_started("data", "read")
            told.stage_finished("data", 1.0, skipped=False)
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert "done in" not in stream.getvalue()


def test_durations_are_readable() -> None:
    told, stream = observer()
    with told:
        told.stage_started("distill", "teach")
        told.stage_finished("distill", 3725.0, skipped=False)
    assert "distill        1:02:05  teach" in stream.getvalue()


def test_a_terminal_names_elapsed_left_step_training_and_validation() -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, width=80, force_terminal=True, color_system=None)
    with ConsoleObserver(terminal, num_stages=3) as told:
        told.stage_started("distill", "teach the student")
        told.stage_step("intermediate")
        told.stage_advanced(5, 10, {"loss": 0.75, "eval_loss": 0.5, "eval_accuracy": 0.9})
        told._progress.refresh()
    drawn = stream.getvalue()
    assert "50% elapsed 0:00:00 left" in drawn
    assert "intermediate  training loss 0.75  validation accuracy 0.9  validation loss" in drawn


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
    assert line.strip() == "5 of 10  teach  training loss 0.75  validation accuracy 0.9  validation macro_f1 0.8"


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
