"""A person's view of a run: a bar for each stage, what it does, elapsed time and time left, notes and warnings."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from potstill.ground.counted import counted

LINE_SECONDS = 20
MOST_FIGURES = 3
INDENT = " " * 9
HIDDEN = ("learning_rate", "grad_norm", "epoch", "runtime", "per_second")
VALIDATION = "eval_"  # what the trainer puts before a figure of the validation rows


class ConsoleObserver:
    """Draws a run on a rich console; use it as a context manager.

    Args:
        console: Where; stderr by default. Where it is no terminal there are plain lines and no bar.
        num_stages: How many stages the run may have; those that it turns out to do without are taken off.
    """

    def __init__(self, console: Console | None = None, num_stages: int = 0) -> None:
        self.console = console or Console(stderr=True)
        self.num_stages = num_stages
        self._done, self._found, self._left_out = 0, 0, list[str]()
        self._task: TaskID | None = None
        self._titles: dict[str, str] = {}
        self._step, self._figures = "", ""
        self._started = self._last_line = time.monotonic()
        self._progress = _TwoLines(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            _TimeLeft(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> ConsoleObserver:
        self._started = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop drawing; where the run ended well, say what it did and how long that took."""
        self._progress.stop()
        if kind is None and self._done:
            self._print(Text(self._summary()))

    def stage_started(self, name: str, title: str) -> None:
        self._titles[name] = title
        self._step, self._figures = title, ""
        self._last_line = time.monotonic()
        self._task = self._progress.add_task(f"{name:<9}", total=None, detail=title)

    def stage_step(self, text: str) -> None:
        """Show which part of the stage is running; the time left begins anew."""
        self._step, self._figures = text, ""
        if self._task is not None:
            self._progress.update(self._task, detail=self._detail())

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Move the bar; without a terminal, a line every twenty seconds instead."""
        if self._task is None:
            return
        self._figures = _shown_figures(figures) or self._figures
        self._progress.update(self._task, completed=done, total=total, detail=self._detail())
        if not self.console.is_terminal and time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            self._print(Text(f"{done:,} of {total:,}  {self._detail()}".rstrip()))

    def stage_finished(self, name: str, seconds: float, *, skipped: bool) -> None:
        """Close the bar and leave one line."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._done += 1
        self._found += skipped
        counter = f"{self._done}/{self.num_stages - len(self._left_out)}" if self.num_stages else str(self._done)
        state = "already done" if skipped else _clock(seconds)
        title = escape(self._titles.get(name, ""))
        line = f"[green]✓[/green] {counter:>5}  {name:<9} {state:>12}  [dim]{title}[/dim]"
        self.console.print(line, highlight=False, soft_wrap=not self.console.is_terminal)

    def stage_left_out(self, name: str) -> None:
        """Take it off the number of stages; it is named at the end."""
        self._left_out.append(name)

    def note(self, text: str) -> None:
        self._print(Text(text, "dim"))

    def warn(self, text: str) -> None:
        self._print(Text(text), first=Text("!", "yellow"))

    def _print(self, text: Text, first: Text | None = None) -> None:
        """A text behind the indent; on a terminal its further lines too, elsewhere it is one line."""
        first = first or Text(" ")
        if not self.console.is_terminal:
            self.console.print(Text.assemble(first, INDENT[1:], text), highlight=False, soft_wrap=True)
            return
        lines = Table.grid(padding=0)
        lines.add_column(width=len(INDENT))
        lines.add_row(first, text)
        self.console.print(lines, highlight=False)

    def _detail(self) -> str:
        return "  ".join(filter(None, (self._step, self._figures)))

    def _summary(self) -> str:
        """What was done, found and not needed, and the time of it all."""
        parts = [f"{counted(self._done - self._found, 'stage')} done in {_clock(time.monotonic() - self._started)}"]
        if self._found:
            parts.append(f"{self._found} found already done")
        if self._left_out:
            parts.append(f"not needed: {', '.join(self._left_out)}")
        return "; ".join(parts)


class _TimeLeft(TimeRemainingColumn):
    """The time left behind its name; nothing where a stage does not say how much there is to do."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else Text.assemble("left ", super().render(task))


class _TwoLines(Progress):
    """A bar, and below it what is being done and the newest figures, cut where the terminal ends."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(f"  {task.fields['detail']}", style="dim", no_wrap=True, overflow="ellipsis")


def console_here() -> Console | None:
    """Where a run may be shown that was started from Python: a notebook, as plain lines, or the terminal; None elsewhere."""
    if Console().is_jupyter:
        return Console(file=sys.stdout, force_jupyter=False, force_terminal=False, width=100)
    console = Console(stderr=True)
    return console if console.is_terminal else None


@contextlib.contextmanager
def warnings_shown_by(show: Callable[[str], None]) -> Iterator[None]:
    """Inside, each warning that the library logs is shown once, and not by a handler from elsewhere."""
    library, handler = logging.getLogger("potstill"), _Shown(show)
    before = library.propagate
    library.addHandler(handler)
    library.propagate = False
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.propagate = before


class _Shown(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.show, self.known = show, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.known:
            self.known.add(text)
            self.show(text)


def _shown_figures(figures: Mapping[str, float]) -> str:
    """The few figures that a person watches: the loss in training, the loss and the metric on validation."""
    watched = {name: value for name, value in figures.items() if not any(word in name for word in HIDDEN)}
    first = sorted(watched, key=lambda name: (name != "loss", name.count("/"), not name.endswith("accuracy")))[:MOST_FIGURES]
    return "  ".join(f"{_named(name)} {watched[name]:.4g}" for name in first)


def _named(name: str) -> str:
    """A figure as a person calls it: of the training rows or of the validation rows."""
    rows, short = ("validation", name.removeprefix(VALIDATION)) if name.startswith(VALIDATION) else ("training", name)
    return f"{rows} {short.replace('loss/', '') if rows == 'training' and '/' in short else short}"


def _clock(seconds: float) -> str:
    """A duration: seconds below a minute, else hours, minutes and seconds."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
