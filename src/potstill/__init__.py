"""Potstill: a big model and a data file in; a small, fast, measured model out."""

from __future__ import annotations

from typing import Any

from potstill.models.architectures.auto_classes import announce

__version__ = "0.1.0"

_LAZY = {
    "DistillationPipeline": "potstill.flows:DistillationPipeline",
    "DistillationTrainer": "potstill.training.trainer:DistillationTrainer",
    "Recipe": "potstill.recipe:Recipe",
    "load": "potstill.flows.loaded:load",
    "plan": "potstill.students.plan:plan",
}

__all__ = [*_LAZY, "__version__"]


announce()  # students that are not of transformers' own types load with its Auto classes once both packages are imported


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from potstill.ground.tables import resolve

        return resolve(_LAZY, name, kind="potstill attribute")
    raise AttributeError(f"module 'potstill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
