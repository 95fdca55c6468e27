"""Losses: pure functions in `functional`, and modules by name from the catalogue.

`Loss`, `LossValue` and `Term` are what a loss of one's own is written with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from potstill.losses.catalogue import LOSSES, build, defaults, names

if TYPE_CHECKING:
    from potstill.losses.contract import Loss, LossValue, Shapes, StudentView
    from potstill.training.terms import Term

_LAZY = {
    "Loss": "potstill.losses.contract:Loss",
    "LossValue": "potstill.losses.contract:LossValue",
    "Shapes": "potstill.losses.contract:Shapes",
    "StudentView": "potstill.losses.contract:StudentView",
    "Term": "potstill.training.terms:Term",
}

__all__ = ["LOSSES", "Loss", "LossValue", "Shapes", "StudentView", "Term", "build", "defaults", "names"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from potstill.ground.tables import at

        return at(_LAZY[name])
    raise AttributeError(f"module 'potstill.losses' has no attribute {name!r}")
