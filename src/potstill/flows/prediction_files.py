"""Files of predictions: CSV, TSV, JSON Lines and Parquet, written part by part and whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from potstill.errors import OutputError
from potstill.ground.disk import check_new_file, explained_os_errors


class Writer(Protocol):
    """Appends tables of the same columns to a stream."""

    def write(self, table: pa.Table) -> None:
        """Append rows."""

    def close(self) -> None:
        """Write what ends the file."""


class CsvWriter:
    """One line a row after a header; lists and mappings stand in a field as JSON."""

    def __init__(self, stream: BinaryIO, delimiter: str = ",") -> None:
        self.stream, self.delimiter = stream, delimiter
        self._writer: Any = None

    def write(self, table: pa.Table) -> None:
        flat = pa.table({name: _as_field(table.column(name)) for name in table.column_names})
        if self._writer is None:
            options = pacsv.WriteOptions(delimiter=self.delimiter)
            self._writer = pacsv.CSVWriter(self.stream, flat.schema, write_options=options)
        self._writer.write_table(flat)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class JsonLinesWriter:
    """One object a row; numbers that JSON has no word for become null."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def write(self, table: pa.Table) -> None:
        finite = {name: _finite(table.column(name)) for name in table.column_names}
        lines = (json.dumps(row, ensure_ascii=False, default=str) for row in pa.table(finite).to_pylist())
        self.stream.write("".join(f"{line}\n" for line in lines).encode("utf-8"))

    def close(self) -> None:
        self.stream.flush()


class ParquetWriter:
    """Typed columns; vectors are lists of float32."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self._writer: Any = None

    def write(self, table: pa.Table) -> None:
        self._writer = self._writer or pq.ParquetWriter(self.stream, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


WRITERS: dict[str, Callable[[BinaryIO], Writer]] = {
    ".csv": CsvWriter,
    ".tsv": lambda stream: CsvWriter(stream, "\t"),
    ".jsonl": JsonLinesWriter,
    ".parquet": ParquetWriter,
}


def check_output(path: Path, *, overwrite: bool, data: Path | None = None) -> None:
    """Refuse a file that cannot or must not be written, before anything is computed.

    Raises:
        OutputError: An unknown suffix, a file that is there, the data themselves, or no such folder.
    """
    if path.suffix.lower() not in WRITERS:
        accepted = ", ".join(WRITERS)
        raise OutputError(f"predictions cannot be written to {path}", f"a name that ends in {accepted}", "rename it: -o out.csv")
    if data is not None and path.exists() and data.exists() and path.samefile(data):
        raise OutputError(f"{path} is the file of the data", "another file", "give another name with -o")
    check_new_file(path, overwrite=overwrite)


@contextmanager
def written_whole(path: Path) -> Iterator[Writer]:
    """A writer whose file gets its name when all rows are written; nothing is left where they are not.

    Raises:
        OutputError: The disk is full or the place may not be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explained_os_errors(path):
        try:
            with partial.open("wb") as stream:
                writer = WRITERS[path.suffix.lower()](stream)
                yield writer
                writer.close()
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _as_field(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_nested(column.type):
        return column
    return pa.chunked_array([pa.array([_json(value) for value in column.to_pylist()], pa.string())])


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_finite(column), column, None) if pa.types.is_floating(column.type) else column
