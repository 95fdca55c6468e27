"""Losses: pure functions in `functional`, and modules by name from the catalogue."""

from __future__ import annotations

from potstill.losses.catalogue import LOSSES, build, defaults, names

__all__ = ["LOSSES", "build", "defaults", "names"]
