"""Lists that a table file keeps as text, such as ``"['a', 'b']"``, ``'["a", "b"]'`` or ``"[1 0 1]"``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features

from potstill.data.arrow import dataset_of, table_of
from potstill.data.columns import is_string
from potstill.data.text_encoding import shorten
from potstill.errors import DataError

_PAIRS = {"[": "]", "(": ")", "{": "}"}
_ITEM = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,]+""")
_QUOTED = r"""(?:[^()'"]|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")*?"""
_CALL = re.compile(rf"\b(?:np\.\w+|numpy\.\w+|array|frozenset|set)\(({_QUOTED})(?:,\s*dtype=[^()]*)?\)")
_LOOKED_AT = 50
_NOTHING = ("", "nan", "none", "null")


def with_lists(dataset: Dataset, names: Collection[str] | None = None) -> Dataset:
    """The rows with columns of written lists as columns of lists; other columns are as they were.

    Args:
        dataset: Rows.
        names: The columns of strings to read so; None: those whose first values are lists.

    Raises:
        DataError: A row of such a column holds something that is no list.
    """
    strings = [name for name, feature in dataset.features.items() if is_string(feature) and (names is None or name in names)]
    found = {name: _lists(dataset, name) for name in strings if names is not None or holds_lists(dataset, name)}
    if not found:
        return dataset
    table = table_of(dataset)
    for name, values in found.items():
        table = table.set_column(table.column_names.index(name), name, _array(name, values))
    return dataset_of(table.replace_schema_metadata(None).cast(_schema(dataset, table, found)))


def holds_lists(dataset: Dataset, name: str) -> bool:
    """Whether the first values of a column of strings are written lists."""
    if not is_string(dataset.features[name]):
        return False
    values = [value for value in table_of(dataset, [name]).column(0).slice(0, _LOOKED_AT).to_pylist() if value and value.strip()]
    return bool(values) and all(read_list(value) is not None for value in values)


def read_list(text: str) -> list[Any] | dict[str, Any] | None:
    """What a text says that is written as a list: of JSON, of Python (also a tuple or set), or of numpy; None where it is none.

    An object is read where it is a span's answer: ``{"text": …}``. Names without quotes are none: ``[A]`` may be a name itself.

    Example:
        >>> read_list("['toxic', 'insult']"), read_list("[1 0 1]"), read_list("['a' 'b']"), read_list("[A]")
        (['toxic', 'insult'], [1, 0, 1], ['a', 'b'], None)
    """
    text = text.strip()
    found = _read(text)
    return _read(_CALL.sub(r"\1", text)) if found is None and "(" in text else found


def _read(text: str) -> list[Any] | dict[str, Any] | None:
    if len(text) < 2 or _PAIRS.get(text[0]) != text[-1]:
        return None
    for read in (json.loads, _read_python):
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return _checked(value)
    return _read_items(text)


def _checked(value: Any) -> list[Any] | dict[str, Any] | None:
    if isinstance(value, dict):
        return value if "text" in value or not value else None
    if isinstance(value, list | tuple | set):
        return sorted(value, key=str) if isinstance(value, set) else list(value)
    return None


def _read_python(text: str) -> Any:
    """As Python writes it; two strings next to each other, which Python joins, are numpy's list of two."""
    items = [item[0] for item in _ITEM.finditer(text[1:-1])]
    is_joined = len(items) > 1 and "," not in _ITEM.sub("", text[1:-1]) and all(item[0] in "'\"" for item in items)
    return [ast.literal_eval(item) for item in items] if is_joined else ast.literal_eval(text)


def _read_items(text: str) -> list[Any] | None:
    """Items of numpy, with spaces between them, and words of Python and JSON mixed."""
    words = {"true": True, "false": False, "null": None, "none": None, "nan": None}
    found = []
    for item in _ITEM.findall(text[1:-1]):
        try:
            found.append(words[item.lower()] if item.lower() in words else ast.literal_eval(item))
        except (ValueError, SyntaxError):
            return None
    return found if text[0] != "{" else None


def _lists(dataset: Dataset, name: str) -> list[Any]:
    known: dict[str, Any] = {}
    rows: list[Any] = []
    for row, value in enumerate(table_of(dataset, [name]).column(0).to_pylist(), 1):
        if value is None or value.strip().lower() in _NOTHING:
            rows.append(None)
            continue
        if value not in known:
            known[value] = read_list(value)
        if known[value] is None:
            raise DataError(
                f"column {name!r} holds lists that are written as text, and row {row} holds {shorten(value)!r}",
                """a list in every row, such as ['a', 'b'] or ["a", "b"]""",
                f"correct row {row}, or write the labels with | between them",
            )
        rows.append(known[value])
    return rows


def _array(name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as err:
        raise DataError(
            f"the lists of column {name!r} mix types ({shorten(str(err), 120)})",
            "lists of names, or lists of numbers",
            "write all of them alike",
        ) from err


def _schema(dataset: Dataset, table: pa.Table, changed: Collection[str]) -> pa.Schema:
    """The types with the features of the columns that are as they were."""
    features = {name: feature for name, feature in dataset.features.items() if name not in changed}
    plain = Features.from_arrow_schema(table.select(list(changed)).schema.remove_metadata())
    return Features({name: features.get(name) or plain[name] for name in table.column_names}).arrow_schema
