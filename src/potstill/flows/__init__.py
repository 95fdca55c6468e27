"""The flow from teacher and data to a measured student."""

from typing import Any

__all__ = ["DistillationPipeline"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from potstill.flows.pipeline import DistillationPipeline

        return DistillationPipeline
    raise AttributeError(f"module 'potstill.flows' has no attribute {name!r}")
