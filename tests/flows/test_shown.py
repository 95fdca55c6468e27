"""What a person sees of a run that was started from Python: progress, quiet libraries, and a result that reads well."""

from __future__ import annotations

import html
import io
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest
from rich.console import Console
from transformers.utils import logging as of_transformers

from potstill import DistillationPipeline
from potstill.flows import pipeline as flow
from potstill.report.result import Result
from potstill.report.table import summary_table

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 1},
    "data": {"augment": "none", "max_rows": 60},
    "distill": {"epochs": 1},
    "quantize": "none",
    "evaluate": {"repeats": 2, "batch_sizes": [1]},
}


@pytest.fixture(scope="module")
def made(small_bert: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> DistillationPipeline:
    """A pipeline whose run is done."""
    output = tmp_path_factory.mktemp("shown") / "out"
    pipeline = DistillationPipeline(teacher_model=small_bert, data=reviews, config=CONFIG, output_dir=output)
    pipeline.run(observer=False)
    return pipeline


@pytest.fixture(scope="module")
def result(made: DistillationPipeline) -> Result:
    """The result of that run."""
    return made.run()


def test_a_terminal_shows_the_run(made: DistillationPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(flow, "console_here", lambda: Console(file=stream, force_terminal=True, width=100))
    made.run()
    assert "already done" in stream.getvalue()
    assert "not needed: " in stream.getvalue()


def test_a_notebook_shows_plain_lines(made: DistillationPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    import builtins

    class ZMQInteractiveShell:  # what Jupyter calls its shell
        """Stands for a notebook."""

    setattr(builtins, "get_ipython", ZMQInteractiveShell)  # noqa: B010
    try:
        made.run()
    finally:
        delattr(builtins, "get_ipython")
    out, err = capsys.readouterr()
    assert "already done  write the report" in out
    assert "\x1b" not in out
    assert err == ""


def test_without_a_terminal_the_log_is_told(
    made: DistillationPipeline, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="potstill"):
        made.run()
        made.run(observer=False)
    assert capsys.readouterr() == ("", "")
    assert caplog.text.count("report: already done") == 2
    made.run(observer=True)
    assert "already done" in capsys.readouterr().err


def test_libraries_are_quiet_for_the_time_of_the_run_alone(made: DistillationPipeline) -> None:
    of_transformers.set_verbosity_info()
    of_transformers.enable_progress_bar()
    datasets.enable_progress_bars()
    filters, level = list(warnings.filters), logging.getLogger("nncf").level
    seen = []
    watcher = flow.LoggingObserver()
    watcher.stage_started = lambda name, title: seen.append(  # type: ignore[method-assign]
        (of_transformers.get_verbosity(), of_transformers.is_progress_bar_enabled(), datasets.are_progress_bars_disabled())
    )
    made.run(observer=watcher)
    assert set(seen) == {(logging.ERROR, False, True)}
    assert of_transformers.get_verbosity() == logging.INFO
    assert of_transformers.is_progress_bar_enabled()
    assert not datasets.are_progress_bars_disabled()
    assert (list(warnings.filters), logging.getLogger("nncf").level) == (filters, level)
    of_transformers.set_verbosity_warning()


def test_libraries_are_as_before_after_an_error(small_bert: Path, tmp_path: Path) -> None:
    of_transformers.set_verbosity_info()
    with pytest.raises(ValueError):
        DistillationPipeline(teacher_model=small_bert, data=str(tmp_path / "none.csv"), output_dir=tmp_path / "out").run()
    assert of_transformers.get_verbosity() == logging.INFO
    of_transformers.set_verbosity_warning()


def test_the_result_is_shown_in_a_line_or_as_the_table(result: Result) -> None:
    assert len(repr(result)) < 300
    assert str(result) == repr(result)
    assert "accuracy" in repr(result)
    assert str(result.paths["report"]) in repr(result)
    text = html.unescape(re.sub(r"<[^>]+>", "", result._repr_html_()))
    shown = [line.rstrip() for line in text.strip("\n").splitlines()]
    assert shown == result.summary().splitlines()
    console = Console(record=True, file=io.StringIO(), width=100)
    console.print(summary_table(result))
    assert result.summary().split() == console.export_text().split()


def test_the_result_gives_what_a_person_asks_for(result: Result) -> None:
    assert result.student is result.models["student"]
    for name, path in result.paths.items():
        assert path.exists(), name
    frame = result.to_frame()
    assert list(frame.index) == list(result.models)
    assert frame.loc["student", "accuracy"] == result.student.quality["accuracy"]
    assert frame.loc["student", "parameters"] == result.student.parameters
    assert any(column.startswith("p50_ms ") for column in frame.columns)


@pytest.mark.parametrize(
    ("name", "guess"), [("agrement", "agreement"), ("retension", "retention"), ("sumary", "summary"), ("studnt", "student")]
)
def test_a_mistyped_figure_is_answered_with_the_nearest(result: Result, name: str, guess: str) -> None:
    with pytest.raises(AttributeError, match=f"has no '{name}'; did you mean '{guess}'"):
        getattr(result, name)
    assert not hasattr(result, "_ipython_display_")


def test_a_mistyped_path_is_answered_with_the_nearest(result: Result) -> None:
    with pytest.raises(KeyError, match="did you mean 'report'"):
        result.paths["reprt"]


def test_a_result_can_be_read_from_its_folder(made: DistillationPipeline, result: Result) -> None:
    assert Result.of_folder(made.recipe.output) == result
    assert sys.getsizeof(repr(result)) < 1000
