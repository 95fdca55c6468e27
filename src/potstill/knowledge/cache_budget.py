"""What a knowledge cache will take on disk and what it will save, before it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from potstill.answers.units import has_units
from potstill.contracts.source import TeacherSource
from potstill.errors import CacheError, OutputError
from potstill.ground.counted import counted
from potstill.ground.disk import free_bytes
from potstill.knowledge.cache_manifest import numpy_dtype
from potstill.knowledge.responses import read_keep

TAP_BUDGET_BYTES = 2 << 30
_SHARD_BYTES = 64 << 20
_SHARD_ROWS = 4096
_MOST_SHARDS = 256
_CACHEABLE = ("logits", "embedding", "pooled", "head.in")


@dataclass(frozen=True)
class CacheEstimate:
    """What a cache of answers costs and saves.

    Args:
        bytes: On disk.
        seconds_to_write: One pass of the teacher; 0 where its speed is not known.
        seconds_saved: All passes but the first.
    """

    bytes: int
    seconds_to_write: float
    seconds_saved: float


def estimate(
    num_rows: int,
    num_classes: int,
    *,
    passes: float,
    dtype: str = "float32",
    seconds_per_row: float = 0.0,
    keep: str | Mapping[str, Any] = "dense",
) -> CacheEstimate:
    """What a cache of answers takes and saves.

    Args:
        num_rows: Rows to cache (units, where rows have several).
        num_classes: Logits per row.
        passes: How often training will read each row (epochs, over all stages and runs that use the same teacher).
        dtype: "float32" or "float16".
        seconds_per_row: Of the live teacher; see `measure_seconds_per_row`.
        keep: Which kind of response is kept; see `write_cache`.

    Example:
        >>> estimate(6920, 2, passes=10, seconds_per_row=0.01).bytes
        166080
    """
    index_bytes = 2 * np.dtype(np.int64).itemsize
    stored = [array for array in read_keep(keep).example(num_classes).values() if array.ndim]
    sizes = (numpy_dtype(dtype).itemsize if np.issubdtype(array.dtype, np.floating) else array.itemsize for array in stored)
    size = num_rows * (sum(array.size * itemsize for array, itemsize in zip(stored, sizes)) + index_bytes)
    once = num_rows * seconds_per_row
    return CacheEstimate(size, once, max(0.0, passes - 1) * once)


def measure_seconds_per_row(
    source: TeacherSource, rows: Any, collator: Callable[[list[dict[str, Any]]], Mapping[str, Tensor]], *, sample: int = 64
) -> float:
    """Seconds that the live teacher takes for a row, by timing it on `sample` rows of the usual lengths."""
    ordered = np.argsort(rows.lengths, kind="stable")
    chosen = ordered[np.linspace(0, len(rows) - 1, min(sample, len(rows))).astype(int)]
    batches = [collator([rows[int(index)] for index in part]) for part in np.array_split(chosen, max(1, len(chosen) // 16))]
    source.signal(batches[0], ("logits",)).logits.cpu()
    started = time.perf_counter()
    for batch in batches:
        source.signal(batch, ("logits",)).logits.cpu()  # a GPU has answered when its answer is here
    return (time.perf_counter() - started) / len(chosen)


@dataclass(frozen=True)
class Layout:
    """How the values of a cache lie on disk.

    Args:
        shard_rows: Rows per shard, whole batches.
        ragged: Values with one entry per token.
        tap_bytes: Bytes of everything but the logits, by value.
        arithmetic: How they come about, for messages.
    """

    shard_rows: int
    ragged: tuple[str, ...]
    tap_bytes: Mapping[str, int]
    arithmetic: tuple[str, ...]

    def check(self, folder: Path, budget_bytes: int) -> None:
        """Refuse what is over the budget or over what the disk has."""
        total, free = sum(self.tap_bytes.values()), free_bytes(folder)
        if total > budget_bytes:
            raise CacheError(
                f"the cache would take {_readable(total)}: {'; '.join(self.arithmetic)}",
                f"at most {_readable(budget_bytes)} besides the logits",
                "use the live teacher for these values, fewer of them, dtype float16, or a larger budget",
            )
        if total > free:
            raise OutputError(
                f"the cache would take {_readable(total)} and the disk of {folder} has {_readable(free)} left",
                todo="free some space, or choose another output folder (-o)",
            )


def plan_layout(
    source: TeacherSource,
    rows: Any,
    collator: Callable[[list[dict[str, Any]]], Mapping[str, Tensor]],
    needs: Sequence[str],
    *,
    itemsize: int,
    batch_size: int,
    shard_rows: int | None,
) -> Layout:
    """Find out the shapes of what is to be kept, from the longest row, and lay it out.

    Raises:
        CacheError: A value that a cache cannot hold.
    """
    refused = [need for need in needs if need not in _CACHEABLE and not need.startswith(("hidden:", "mean:"))]
    if refused:
        raise CacheError(
            f"a cache does not hold {', '.join(refused)}",
            f"{', '.join(_CACHEABLE)}, hidden:k, mean:k",
            "use the live teacher for these",
        )
    taps = [need for need in needs if need != "logits"]
    tap_bytes: dict[str, int] = {}
    ragged, arithmetic, longest_bytes = [], [], 0
    if taps:
        longest = int(np.argmax(rows.lengths))
        signal = source.signal(collator([rows[longest]]), taps)
        for need in taps:
            shape = tuple(signal.taps[need].shape)
            is_ragged = len(shape) == 3 and signal.token_mask is not None
            width, tokens = int(np.prod(shape[2:] if is_ragged else shape[1:])), float(np.mean(rows.lengths))
            units = int(np.sum(rows.lengths)) if is_ragged else len(rows)
            tap_bytes[need] = units * width * itemsize
            ragged += [need] if is_ragged else []
            per_row = f" × {tokens:.1f} tokens" if is_ragged else ""
            arithmetic.append(
                f"{need}: {counted(len(rows), 'row')}{per_row} × {width:,} values × {itemsize} bytes"
                f" = {_readable(tap_bytes[need])}"
            )
            longest_bytes += int(np.prod(shape)) * itemsize
    if "logits" in needs and has_units(collator([rows[0]])):
        if ragged:
            raise CacheError(
                f"a cache of answers with several units a row does not hold {', '.join(ragged)}, which have one entry per token",
                "logits and values of whole rows",
                "use the live teacher for the values per token",
            )
        ragged = ["logits"]
    chosen = shard_rows or _choose_shard_rows(len(rows), longest_bytes)
    return Layout(-(-chosen // batch_size) * batch_size, tuple(ragged), tap_bytes, tuple(arithmetic))


def _choose_shard_rows(num_rows: int, bytes_per_row: int) -> int:
    usual = max(_SHARD_ROWS, -(-num_rows // _MOST_SHARDS))
    return max(1, min(usual, _SHARD_BYTES // bytes_per_row)) if bytes_per_row else usual


def _readable(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}" if unit != "B" else f"{num_bytes} B"
        size /= 1024
    return f"{size:,.3g} TiB"
