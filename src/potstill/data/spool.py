"""Tables that grow beyond memory: small ones stay in memory, larger ones go to a file as they come and are memory-mapped."""

from __future__ import annotations

import atexit
import logging
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

logger = logging.getLogger(__name__)

IN_MEMORY_BYTES = 16 << 20
_TAKEN_ROWS = 16_384


class Spool:
    """Rows of one table, added piece by piece.

    Up to `IN_MEMORY_BYTES` they stay in memory. Beyond, they are written to nameless files in the folder for temporary files
    (``TMPDIR``), which vanish with the table. Pieces may differ in columns and types as far as `pyarrow.concat_tables` can
    promote them.

    Example:
        >>> spool = Spool()
        >>> spool.add(pa.table({"text": ["a"]}))
        >>> spool.add(pa.table({"text": ["b"]}))
        >>> spool.table()["text"].to_pylist()
        ['a', 'b']
    """

    def __init__(self) -> None:
        self._held: list[pa.Table] = []
        self._bytes = 0
        self._files: list[tuple[Path, pa.RecordBatchFileWriter]] = []
        self._schema: pa.Schema | None = None

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        self._held.append(table)
        self._bytes += table.get_total_buffer_size()
        if self._files or self._bytes > IN_MEMORY_BYTES:
            self._write_held()

    def table(self) -> pa.Table:
        """All rows in their order; the spool must not be used after that.

        Raises:
            pyarrow.ArrowInvalid: Pieces whose types no promotion makes alike (also `pyarrow.ArrowTypeError`).
        """
        if not self._files:
            return _joined(self._held)
        self._write_held()
        self._files[-1][1].close()
        return _joined([_mapped(path) for path, _ in self._files])

    def _write_held(self) -> None:
        for table in self._held:
            if self._schema is None or not table.schema.equals(self._schema):
                self._open(table.schema)
            self._files[-1][1].write_table(table)
        self._held, self._bytes = [], 0

    def _open(self, schema: pa.Schema) -> None:
        if self._files:
            self._files[-1][1].close()
        with tempfile.NamedTemporaryFile(prefix="potstill-rows-", suffix=".arrow", delete=False) as file:
            path = Path(file.name)
        self._files.append((path, pa.ipc.new_file(str(path), schema)))
        self._schema = schema


def _joined(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})


def _mapped(path: Path) -> pa.Table:
    """The rows of a file, whose name is given up: it lives as long as the table."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    try:
        path.unlink()
    except PermissionError:  # Windows keeps mapped files
        atexit.register(path.unlink, missing_ok=True)
    return table


def taken(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """The rows of a table with these numbers, which ascend, without holding more than a block of them in memory."""
    spool, start = Spool(), 0
    for batch in table.to_batches(max_chunksize=_TAKEN_ROWS):
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + batch.num_rows)]
        if len(inside):
            spool.add(pa.Table.from_batches([batch]).take(pa.array(inside - start)))
        start += batch.num_rows
    made = spool.table()
    return made if made.num_columns else table.slice(0, 0)
