"""The terminal's view of a run: a progress bar with time left for each stage, notes and warnings, on stderr."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 20
MOST_FIGURES = 3
HIDDEN = ("learning_rate", "grad_norm", "epoch", "runtime", "per_second")


class ConsoleObserver:
    """Draws a run on a rich console; use it as a context manager.

    Args:
        num_stages: How many stages the run has, those that are left out included, for the counter.
    """

    def __init__(self, console: Console | None = None, num_stages: int = 0) -> None:
        self.console = console or Console(stderr=True)
        self.num_stages = num_stages
        self._count = 0
        self._task: TaskID | None = None
        self._titles: dict[str, str] = {}
        self._last_line = 0.0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[figures]}"),
            console=self.console,
            transient=True,
        )

    def __enter__(self) -> ConsoleObserver:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def stage_started(self, name: str, title: str) -> None:
        self._titles[name] = title
        self._last_line = time.monotonic()
        self._task = self._progress.add_task(f"{name:<9}", total=None, figures=title)

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Move the bar; without a terminal, a line every twenty seconds instead."""
        if self._task is None:
            return
        shown = _shown_figures(figures)
        self._progress.update(self._task, completed=done, total=total)
        if shown:
            self._progress.update(self._task, figures=shown)
        if not self.console.is_terminal and time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(f"         {done} of {total}  {shown}".rstrip(), highlight=False)

    def stage_finished(self, name: str, seconds: float, *, skipped: bool) -> None:
        """Close the bar and leave one line."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._count += 1
        counter = f"{self._count}/{self.num_stages}" if self.num_stages else str(self._count)
        state = "[dim]already done[/dim]" if skipped else f"{seconds:7.1f} s"
        self.console.print(
            f"[green]✓[/green] {counter:>5}  {name:<9} {state}  [dim]{escape(self._titles.get(name, ''))}[/dim]", highlight=False
        )

    def stage_left_out(self, name: str) -> None:
        """Count it; nothing to see."""
        self._count += 1

    def note(self, text: str) -> None:
        self.console.print(f"         [dim]{escape(text)}[/dim]", highlight=False)

    def warn(self, text: str) -> None:
        self.console.print(f"[yellow]![/yellow]        {escape(text)}", highlight=False)


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
    """The few figures that a person watches: the losses, and the metric on validation."""
    watched = {name: value for name, value in figures.items() if not any(word in name for word in HIDDEN)}
    first = sorted(watched, key=lambda name: (name != "loss", name.count("/"), not name.endswith("accuracy")))[:MOST_FIGURES]
    return "  ".join(f"{name.removeprefix('eval_')} {watched[name]:.4g}" for name in first)
