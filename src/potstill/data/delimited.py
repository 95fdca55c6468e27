"""CSV and TSV files → Arrow tables: the delimiter, the header, the records."""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from potstill.data.spool import Spool
from potstill.data.text_encoding import decoded_lines, shorten
from potstill.errors import DataError

_CHUNK_ROWS = 8_192
_LONGEST_FIELD = 1 << 28
_SAMPLE_LINES = 20
_MARKS = ",;\t|"
_SEPARATOR = re.compile(r"\"?sep=(.)\"?\s*", re.IGNORECASE)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def read_csv(path: Path) -> pa.Table:
    """Read a CSV or TSV file with a header line; the delimiter of a ``.csv`` is found from the first lines.

    A TSV file is first read with quotes as in CSV and, where that fails, with quotes as plain characters.
    """
    tabs = ".tsv" in (suffix.lower() for suffix in path.suffixes)
    delimiter = "\t" if tabs else _delimiter(path)
    try:
        return _read_delimited(path, delimiter, csv.QUOTE_MINIMAL)
    except DataError:
        if not tabs:
            raise
        return _read_delimited(path, delimiter, csv.QUOTE_NONE)


def _read_delimited(path: Path, delimiter: str, quoting: int) -> pa.Table:
    records = _records(path, delimiter, quoting)
    header = [name.strip() for name in next(records, [])]
    repeated = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    if repeated:
        raise DataError(
            f"{path} has more than one column {repeated[0]!r}", "column names that differ", "rename one in the first line"
        )
    names = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
    spool = Spool()
    while chunk := list(itertools.islice(records, _CHUNK_ROWS)):
        spool.add(pa.table([pa.array(values, pa.string()) for values in zip(*chunk)], names))
    table = spool.table()
    _refuse_data_as_header(path, header, table, delimiter)
    return pa.table({name: _as_integers(table.column(i)) for i, name in enumerate(names)}) if table.num_rows else pa.table({})


def _records(path: Path, delimiter: str, quoting: int) -> Iterator[list[str]]:
    reader = csv.reader(_lines(path), delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    width, start = 0, 1
    while True:
        try:
            with _long_fields():
                record = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            todo = "close each quote, and write a quote inside a quoted field as two"
            if "NUL" in str(err):
                todo = f"save the file as UTF-8; it may be UTF-16: iconv -f UTF-16 -t UTF-8 {path}"
            raise _broken_record(path, start, str(err), todo) from err
        record = [] if all(not field.strip() for field in record) and len(record) < 2 and width != 1 else record
        if record and (not width or len(record) == width):
            width = width or len(record)
            yield record
        elif record:
            todo = f"put fields that hold {delimiter!r} or a line break in double quotes"
            raise _broken_record(path, start, f"{len(record)} fields where the header has {width}", todo)
        start = reader.line_num + 1


def _broken_record(path: Path, line: int, reason: str, todo: str) -> DataError:
    return DataError(f"line {line} of {path} is broken ({reason})", "as many fields on each line as in the header", todo)


def _lines(path: Path) -> Iterator[str]:
    """The lines from the header on: without blank ones, and without a line ``sep=;``, at the beginning."""
    return itertools.dropwhile(lambda line: not line.strip() or _SEPARATOR.fullmatch(line), decoded_lines(path))


def _delimiter(path: Path) -> str:
    """The mark that a line ``sep=`` names, else the one that cuts the first lines into most fields, as many in each."""
    first = next((line for line in decoded_lines(path) if line.strip()), "")
    if said := _SEPARATOR.fullmatch(first):
        return said[1]
    sample = [line for line in itertools.islice(_lines(path), _SAMPLE_LINES) if line.strip()]
    return max(_MARKS, key=lambda mark: (*_fit(sample, mark), mark == ","))


def _fit(sample: Sequence[str], mark: str) -> tuple[bool, int]:
    """Whether a mark cuts a header and the lines after it alike, and into how many fields the header."""
    with _long_fields():
        widths = [len(record) for record in csv.reader(sample, delimiter=mark) if record]
    return len(set(widths[:-1] or widths)) == 1 and widths[0] > 1, widths[0] if widths else 0


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Fields as long as a text may be; the limit of `csv` is one for the whole process, and is put back."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _refuse_data_as_header(path: Path, header: Sequence[str], table: pa.Table, delimiter: str) -> None:
    """Make sure that the first line names columns.

    Raises:
        DataError: It looks like a row: a number over numbers, or a sentence next to a value that its column repeats.
    """
    if not table.num_rows or [name for name in header if name] == [str(i) for i in range(sum(map(bool, header)))]:
        return
    columns = [table.column(i).slice(0, _CHUNK_ROWS).to_pylist() for i in range(len(header))]
    numbers = [bool(_NUMBER.fullmatch(name)) and all(map(_NUMBER.fullmatch, values)) for name, values in zip(header, columns)]
    repeated = [name in values and len(set(values)) < len(values) for name, values in zip(header, columns)]
    is_sentence = any(len(name.split()) > 2 and len(set(values)) * 2 > len(values) for name, values in zip(header, columns))
    if any(numbers) or (any(name and again for name, again in zip(header, repeated)) and is_sentence):
        names = delimiter.join("label" if number or again else "text" for number, again in zip(numbers, repeated))
        raise DataError(
            f"the first line of {path} looks like a row and not like column names: {shorten(delimiter.join(header))!r}",
            "a first line with the names of the columns",
            f"put one in front, for example {names!r}",
        )


def _as_integers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as integers where every value is one, as it was where any is not."""
    chunks = []
    for chunk in column.chunks:
        try:
            integers = pc.cast(chunk, pa.int64())
        except pa.ArrowInvalid:
            return column
        if not pc.all(pc.equal(pc.cast(integers, pa.string()), chunk)).as_py():
            return column
        chunks.append(integers)
    return pa.chunked_array(chunks, pa.int64())
