"""Rows of knowledge in memory-mapped shards, found by row id.

Shapes: N rows, B batch, T tokens, D width.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from potstill.errors import CacheError
from potstill.ground.disk import explained_os_errors
from potstill.knowledge.cache_manifest import TOKEN_COUNTS, Manifest, checksum, shard_file

ROW_IDS = "row_ids.npy"
POSITIONS = "positions.npy"
# Values of at most this size are read whole when opened, which makes a look-up a single gather.
READ_WHOLE_BYTES = 64 << 20
_SHOWN_ROWS = 5


def save_array(path: Path, array: np.ndarray) -> str:
    """Write an array so that the file is whole or absent; gives its checksum."""
    partial = path.with_name(f".{path.name}.partial")
    with explained_os_errors(path):
        try:
            with partial.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())
            digest = checksum(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return digest


def index_rows(row_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row ids in ascending order and, for each, its position in the order of writing; refuses an id that occurs twice."""
    positions = np.argsort(row_ids, kind="stable")
    ordered = row_ids[positions]
    doubled = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(doubled):
        raise CacheError(
            f"row ids occur more than once: {listed_rows(doubled)}",
            "an id of its own for every row",
            "number the rows of all splits anew",
        )
    return ordered, positions


class ShardStore:
    """Reads the shards of one finished cache."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.row_ids = np.load(folder / ROW_IDS, mmap_mode="r")
        self._positions = np.load(folder / POSITIONS, mmap_mode="r")
        self._arrays = {need: self._open(need) for need in manifest.stored}
        self._starts = self._token_starts() if manifest.ragged else np.zeros(0, dtype=np.int64)

    def _open(self, need: str) -> list[np.ndarray]:
        """One array per shard, or a single array of all where they are small."""
        names = [shard_file(need, shard) for shard in range(self.manifest.num_shards)]
        shards = [np.load(self.folder / name, mmap_mode="r", allow_pickle=False) for name in names]
        if need not in self.manifest.ragged_arrays and sum(shard.nbytes for shard in shards) <= READ_WHOLE_BYTES:
            return [np.concatenate(shards)] if shards else shards
        return shards

    def _token_starts(self) -> np.ndarray:
        """For every position, its first token within its shard."""
        starts = np.zeros(self.manifest.num_rows, dtype=np.int64)
        for shard in range(self.manifest.num_shards):
            rows = self.manifest.rows_of(shard)
            lengths = self.lengths(np.arange(rows.start, rows.stop))
            starts[rows.start + 1 : rows.stop] = np.cumsum(lengths)[:-1]
        return starts

    def find(self, row_ids: np.ndarray) -> np.ndarray:
        """Positions of rows; refuses rows that the cache does not hold, and names them."""
        places = np.minimum(np.searchsorted(self.row_ids, row_ids), len(self.row_ids) - 1)
        is_absent = self.row_ids[places] != row_ids
        if is_absent.any():
            raise CacheError(
                f"the knowledge cache lacks {int(is_absent.sum())} of the rows asked for: {listed_rows(row_ids[is_absent])}",
                f"the {len(self.row_ids)} rows that it was written with",
                "write the cache for all rows that are trained on",
            )
        return self._positions[places]

    def gather(self, need: str, positions: np.ndarray) -> np.ndarray:
        """Values [B, ...] with one entry per row, float32 (whole numbers as they are) in memory of their own."""
        arrays = self._arrays[need]
        if len(arrays) == 1:
            return _floats(arrays[0][positions])
        shards, offsets = np.divmod(positions, self.manifest.shard_rows)
        values = np.empty((len(positions), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
        for shard in np.unique(shards):
            is_here = shards == shard
            values[is_here] = arrays[shard][offsets[is_here]]
        return _floats(values)

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        """Tokens of rows whose values have one entry per token, [B] int64."""
        return self.gather(TOKEN_COUNTS, positions).astype(np.int64)

    def gather_tokens(self, need: str, positions: np.ndarray, num_tokens: int) -> np.ndarray:
        """Values [B, T, D] with one entry per token, zeros on the right; refuses rows longer than T, `num_tokens`."""
        lengths = self.lengths(positions)
        if len(lengths) and lengths.max() > num_tokens:
            raise CacheError(
                f"a cached row has {lengths.max()} tokens, the batch is {num_tokens} wide",
                "batches of the teacher's own tokens",
                "encode with the tokenizer and max_tokens that the cache was written with",
            )
        arrays, starts = self._arrays[need], self._starts
        dtype = np.float32 if arrays[0].dtype == np.float16 else arrays[0].dtype
        values = np.zeros((len(positions), num_tokens, *arrays[0].shape[1:]), dtype)
        for row, position in enumerate(positions):
            start, length = starts[position], lengths[row]
            values[row, :length] = arrays[position // self.manifest.shard_rows][start : start + length]
        return values


def _floats(values: np.ndarray) -> np.ndarray:
    is_half = values.dtype == np.float16
    return values.astype(np.float32) if is_half else np.ascontiguousarray(values)


def listed_rows(row_ids: np.ndarray) -> str:
    """The first few row ids, for messages."""
    shown = ", ".join(str(int(row)) for row in row_ids[:_SHOWN_ROWS])
    return shown + (" …" if len(row_ids) > _SHOWN_ROWS else "")
