"""Tables beyond memory: the same rows as in memory, nothing left behind, little memory held."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill.data import spool as spool_module
from potstill.data.sources import read_file
from potstill.data.spool import Spool, taken
from potstill.data.tables import read_table
from potstill.errors import DataError

ROWS = [{"text": f"text {number} 文", "label": number % 3} for number in range(20_000)]


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every spool writes to this folder from its first row on."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(spool_module, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def written(folder: Path, kind: str) -> Path:
    """The rows as a file of some kind."""
    file = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    elif kind == "txt":
        file.write_text("".join(f"{row['text']}\n\n" for row in ROWS), "utf-8")
    else:
        mark = "," if kind == "csv" else "\t"
        file.write_text(f"text{mark}label\n" + "".join(f"{row['text']}{mark}{row['label']}\n" for row in ROWS), "utf-8")
    return file


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "txt"])
def test_rows_from_disk_are_the_rows(on_disk: Path, tmp_path: Path, kind: str) -> None:
    file = written(tmp_path, kind)
    before = pa.total_allocated_bytes()
    table = read_table(file)
    held = pa.total_allocated_bytes() - before
    expected = [{"text": row["text"]} for row in ROWS] if kind == "txt" else ROWS
    assert table.to_pylist() == expected
    assert held < 0.5 * table.nbytes, "the texts are mapped; integers of a CSV file are held"
    assert list(on_disk.iterdir()) == [], "the file has no name, and goes with the table"


def test_pieces_of_other_types_are_promoted_in_memory_and_on_disk(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [pa.table({"a": [1, 2]}), pa.table({"a": [1.5], "b": ["x"]}), pa.table({"a": pa.nulls(1)}), pa.table({"a": [4]})]
    made = []
    for limit in (0, 1 << 30):
        monkeypatch.setattr(spool_module, "IN_MEMORY_BYTES", limit)
        spool = Spool()
        for piece in pieces:
            spool.add(piece)
        made.append(spool.table().to_pydict())
    assert made[0] == made[1] == {"a": [1.0, 2.0, 1.5, None, 4.0], "b": [None, None, "x", None, None]}
    assert list(on_disk.iterdir()) == []


def test_a_column_that_changes_its_type_late_is_refused_on_disk_too(on_disk: Path, tmp_path: Path) -> None:
    file = tmp_path / "late.jsonl"
    lines = [json.dumps({"text": "a", "label": 1}) for _ in range(8_192)]  # one piece
    file.write_text("\n".join([*lines, json.dumps({"text": "a", "label": "one"})]), "utf-8")
    with pytest.raises(DataError, match="changes its type"):
        read_file(file)


def test_an_empty_spool_is_an_empty_table() -> None:
    assert Spool().table().num_rows == 0


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_taken_rows_are_those_of_take(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "IN_MEMORY_BYTES", limit)
    monkeypatch.setattr(spool_module, "_TAKEN_ROWS", 7)
    table = pa.concat_tables(
        [pa.table({"a": np.arange(0, 40), "b": [str(n) for n in range(40)]}), pa.table({"a": [1], "b": ["z"]})]
    )
    for rows in (np.array([0, 6, 7, 13, 14, 40]), np.arange(41), np.array([], np.int64)):
        assert taken(table, rows).to_pydict() == table.take(pa.array(rows, pa.int64())).to_pydict()
        assert taken(table, rows).schema == table.schema
