"""The observer of a run's progress that logs it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class LoggingObserver:
    """Writes the events of a run to a log, that of this module by default; used outside the command line."""

    def __init__(self, log: logging.Logger = logger) -> None:
        self.log = log

    def stage_started(self, name: str, title: str) -> None:
        self.log.info("%s: %s", name, title)

    def stage_step(self, text: str) -> None:
        self.log.info("%s", text)

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        self.log.debug("%d of %d %s", done, total, dict(figures))

    def stage_finished(self, name: str, seconds: float, *, skipped: bool) -> None:
        self.log.info("%s: %s", name, "already done" if skipped else f"{seconds:.1f} s")

    def stage_left_out(self, name: str) -> None:
        self.log.debug("%s: not needed", name)

    def note(self, text: str) -> None:
        self.log.info("%s", text)

    def warn(self, text: str) -> None:
        self.log.warning("%s", text)


def silent_observer() -> LoggingObserver:
    """An observer that drops every event: that of every rank but the first."""
    return LoggingObserver(logging.Logger("silent", logging.CRITICAL + 1))
