"""Content hashes: cheap, the same on every machine and however the rows lie in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset

from potstill.data.arrow import table_of

_CHUNK_ROWS = 8_192


def hash_of(*parts: str | bytes) -> str:
    """The hash of some strings or bytes, 32 hexadecimal digits; no two different lists of parts are hashed alike by joining."""
    digest = xxhash.xxh3_128()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def rows_hash(dataset: Dataset) -> str:
    """The hash of all rows of a data set in their order, 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    table = table_of(dataset)
    for start in range(0, len(dataset), _CHUNK_ROWS):
        digest.update(row_hashes(table.slice(start, _CHUNK_ROWS)).tobytes())
    return digest.hexdigest()


def row_hashes(table: pa.Table) -> np.ndarray:
    """The hash of the content of each row [N] uint64.

    An image that lies in a file is hashed by its path, size and time of change, not by its pixels.
    """
    total = np.zeros(table.num_rows, np.uint64)
    for name in table.column_names:
        own = np.fromiter(
            (xxhash.xxh3_64_intdigest(_value_bytes(value.as_py())) for value in table.column(name)), np.uint64, table.num_rows
        )
        total = total * np.uint64(0x9E3779B97F4A7C15) + own
    return total


def _value_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return value.to_bytes(8, "little", signed=True)
    if isinstance(value, dict) and value.get("bytes") is not None:
        return bytes(value["bytes"])
    if isinstance(value, dict) and value.get("path"):
        return _file_bytes(Path(value["path"]))
    return repr(value).encode()


def _file_bytes(path: Path) -> bytes:
    if not path.is_file():
        return str(path).encode()
    found = path.stat()
    return f"{path.name}:{found.st_size}:{found.st_mtime_ns}".encode()
