"""What a run tells while it works; the command line draws it, the library logs it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Receives the events of a run, in order."""

    def stage_started(self, name: str, title: str) -> None:
        """A stage begins."""

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """The running stage has done `done` of `total` units; `figures` are the newest values worth showing."""

    def stage_finished(self, name: str, seconds: float, *, skipped: bool) -> None:
        """A stage is whole, or was whole before."""

    def stage_left_out(self, name: str) -> None:
        """This run does without the stage."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def warn(self, text: str) -> None:
        """Something doubtful, with its remedy."""


class SilentObserver:
    """Tells nothing: the observer of every rank but the first."""

    def stage_started(self, name: str, title: str) -> None:
        """Nothing."""

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def stage_finished(self, name: str, seconds: float, *, skipped: bool) -> None:
        """Nothing."""

    def stage_left_out(self, name: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


class LoggingObserver:
    """Writes events to the log of this module; the default outside the command line."""

    def stage_started(self, name: str, title: str) -> None:
        """Log the start."""
        logger.info("%s: %s", name, title)

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Log at debug level."""
        logger.debug("%d of %d %s", done, total, dict(figures))

    def stage_finished(self, name: str, seconds: float, *, skipped: bool) -> None:
        """Log the end."""
        logger.info("%s: %s", name, "already done" if skipped else f"{seconds:.1f} s")

    def stage_left_out(self, name: str) -> None:
        """Log at debug level."""
        logger.debug("%s: not needed", name)

    def note(self, text: str) -> None:
        """Log as information."""
        logger.info("%s", text)

    def warn(self, text: str) -> None:
        """Log as a warning."""
        logger.warning("%s", text)
