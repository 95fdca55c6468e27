"""Table files (JSONL, JSON, CSV, TSV, Parquet, plain text) → Arrow tables, with errors that name the line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.data.delimited import read_csv
from potstill.data.places import data_suffix, unknown_suffix
from potstill.data.spool import Spool
from potstill.data.text_encoding import decoded_lines, empty_file, shorten
from potstill.errors import DataError

_CHUNK_ROWS = 8_192
_PARQUET_ROWS = 512


def read_table(path: Path) -> pa.Table:
    """Read one file into an Arrow table.

    Args:
        path: A file whose suffix is one of `SUFFIXES` or ``.txt`` (one text a line), optionally with ``.gz``.

    Raises:
        DataError: Unknown suffix, empty file, broken line, wrong encoding or columns of mixed types.
    """
    suffix = data_suffix(path)
    if path.stat().st_size == 0:
        raise empty_file(path)
    readers = {
        ".jsonl": read_json_lines,
        ".ndjson": read_json_lines,
        ".json": read_json,
        ".csv": read_csv,
        ".tsv": read_csv,
        ".parquet": read_parquet,
        ".txt": read_text_lines,
    }
    if suffix not in readers:
        raise unknown_suffix(path)
    table = readers[suffix](path)
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows", "a file with at least one row", "check that it was written or downloaded whole")
    return table


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file; the Hugging Face schema inside it, where there is one, is kept."""
    if path.suffix.lower() == ".gz":
        raise DataError(f"{path} is packed twice", "Parquet files as they are", f"unpack it: gzip -d {path}")
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            spool = Spool()
            for batch in file.iter_batches(_PARQUET_ROWS):
                spool.add(pa.Table.from_batches([batch]).replace_schema_metadata(file.schema_arrow.metadata))
            return spool.table()
    except (pa.ArrowInvalid, OSError) as err:
        raise DataError(
            f"{path} is not a Parquet file ({shorten(str(err), 120)})", "a whole Parquet file", "copy or write it again"
        ) from err


def read_text_lines(path: Path) -> pa.Table:
    """Read a plain text file, one text a line; blank lines are left out."""
    spool = Spool()
    texts = (text for line in decoded_lines(path) if (text := line.strip()))
    while chunk := list(itertools.islice(texts, _CHUNK_ROWS)):
        spool.add(pa.table({"text": pa.array(chunk, pa.string())}))
    return spool.table()


def read_json_lines(path: Path) -> pa.Table:
    """Read a JSON Lines file: one object a line; blank lines are left out."""
    return _table_of(path, _objects(path))


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(decoded_lines(path), 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except ValueError as err:
            raise _broken_json(path, number, line, err) from err
        yield number, _checked_object(path, f"line {number}", row)


def _broken_json(path: Path, number: int, line: str, err: ValueError) -> DataError:
    reason = f"{err.msg}, column {err.colno}" if isinstance(err, json.JSONDecodeError) else str(err)
    if not line.strip():
        return DataError(f"{path} ends in the middle, at line {number} ({reason})", "a whole file", "copy or write it again")
    return DataError(
        f"line {number} of {path} is not valid JSON ({reason}): {shorten(line.strip())!r}",
        'one JSON object a line, for example {"text": "…", "label": "…"}',
        f"correct or remove line {number}",
    )


def _checked_object(path: Path, where: str, row: Any) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    raise DataError(
        f"{where} of {path} is a {type(row).__name__}, not an object",
        'JSON objects, for example {"text": "…", "label": "…"}',
        "give each value a name",
    )


def read_json(path: Path) -> pa.Table:
    """Read a JSON file: a list of objects, an object that holds one such list, an object of columns, or JSON Lines."""
    text = "".join(decoded_lines(path))
    if text.isspace():
        raise empty_file(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as err:
        if err.msg == "Extra data" and text.lstrip().startswith("{"):
            return read_json_lines(path)
        line = next(itertools.islice(text.split("\n"), err.lineno - 1, None), "")
        raise _broken_json(path, err.lineno, line, err) from err
    return _table_of(path, ((n, _checked_object(path, f"row {n}", row)) for n, row in enumerate(_rows_of(path, value), 1)))


def _rows_of(path: Path, value: Any) -> Iterable[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = {key: item for key, item in value.items() if isinstance(item, list)}
        holders = [key for key, item in lists.items() if item and all(isinstance(row, dict) for row in item)]
        if len(holders) == 1:
            return lists[holders[0]]
        if lists and len(lists) == len(value) and len({len(item) for item in lists.values()}) == 1:
            return (dict(zip(lists, row)) for row in zip(*lists.values()))
        if not lists:
            return [value]
    raise DataError(
        f"{path} holds no list of rows", 'a list of objects: [{"text": "…", "label": "…"}, …]', "write it as JSON Lines"
    )


def _table_of(path: Path | str, rows: Iterable[tuple[int, dict[str, Any]]]) -> pa.Table:
    spool = Spool()
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
        names = dict.fromkeys(name for _, row in chunk for name in row)
        for number, row in chunk:
            _refuse_surrogates(path, number, row)
        spool.add(pa.table({name: _column(path, name, chunk) for name in names}))
    try:
        return spool.table()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as err:
        raise DataError(
            f"a column of {path} changes its type ({shorten(str(err), 120)})", "one type a column", "write all values alike"
        ) from err


def table_of_rows(what: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows in memory as a table.

    Raises:
        DataError: A column of mixed types.
    """
    return _table_of(what, ((number, dict(row)) for number, row in enumerate(rows, 1)))


def refuse_mixed(what: str, name: str, values: Sequence[Any]) -> None:
    """Make sure that a column has one type.

    Raises:
        DataError: It has not; names the row.
    """
    _column(what, name, [(number, {name: value}) for number, value in enumerate(values, 1)])


def _refuse_surrogates(path: Path | str, number: int, row: Mapping[str, Any]) -> None:
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as err:
        raise DataError(
            f"line {number} of {path} has half of a character ({err.object[err.start]!a}, a lone surrogate)",
            "whole characters: in JSON an escape such as \\ud83d\\ude00 comes in pairs",
            f"correct or remove line {number}",
        ) from err


def _column(path: Path | str, name: str, chunk: Sequence[tuple[int, dict[str, Any]]]) -> pa.Array:
    values = [row.get(name) for _, row in chunk]
    try:
        return pa.array(values)
    except OverflowError as err:
        large = next(n for n, row in chunk if isinstance(row.get(name), int) and not -(2**63) <= row[name] < 2**63)
        raise DataError(
            f"column {name!r} of {path} has a whole number beyond 64 bits at line {large}",
            "whole numbers below 2^63, or text",
            "write the values of the column in quotes",
        ) from err
    except (pa.ArrowInvalid, pa.ArrowTypeError) as err:
        numbers = [number for number, _ in chunk]
        first = next((value for value in values if value is not None), None)
        odd = next((i for i, v in enumerate(values) if v is not None and type(v) is not type(first)), 0)
        raise DataError(
            f"column {name!r} of {path} mixes types: {shorten(repr(first))} "
            f"and, at line {numbers[odd]}, {shorten(repr(values[odd]))}",
            "one type a column",
            "write all values alike, for example all as strings",
        ) from err
