"""Data: sources are read, split, labelled, encoded once and served in batches of like length."""

from __future__ import annotations

from typing import Any

_LAZY = {
    "BucketBatchSampler": "potstill.data.bucketing:BucketBatchSampler",
    "EncodedImages": "potstill.data.encoded:EncodedImages",
    "EncodedRows": "potstill.data.encoded:EncodedRows",
    "EncodedText": "potstill.data.encoded:EncodedText",
    "Splits": "potstill.data.splits:Splits",
    "concatenate": "potstill.data.encoded:concatenate",
    "load": "potstill.data.splits:load",
    "load_rows": "potstill.data.splits:load_rows",
}

__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from potstill.ground.tables import resolve

        return resolve(_LAZY, name, kind="potstill.data attribute")
    raise AttributeError(f"module 'potstill.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
