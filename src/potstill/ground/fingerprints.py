"""Fingerprints: short hashes of plain values and files that are the same in every process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

_READ_BYTES = 1 << 20


def fingerprint(value: Any) -> str:
    """A short hash that is the same in every process, for anything that JSON can hold.

    Mappings do not depend on the order of their keys, tuples equal lists, sets are sorted, dataclasses are those of their fields
    that are compared, models of pydantic their values, arrays their dtype, shape and bytes. A `Path` is hashed by the content
    below it, not by its name.

    Args:
        value: A structure of numbers, strings, mappings, sequences, sets, dataclasses, arrays and paths.

    Raises:
        TypeError: Something in it has no stable form.

    Example:
        >>> fingerprint({"a": 1, "b": (2, 3)}) == fingerprint({"b": [2, 3], "a": 1})
        True
    """
    return hashlib.blake2b(json.dumps(_plain(value), sort_keys=True).encode(), digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {"content": _hash_path(value)}
    if isinstance(value, bytes):
        return {"bytes": hashlib.blake2b(value, digest_size=16).hexdigest()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": value.shape, "bytes": _hash_array(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value) if item.compare}
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return _plain_mapping(value)
    if isinstance(value, AbstractSet):
        return sorted((_plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no stable fingerprint; give its plain values instead")


def _plain_mapping(value: Mapping[Any, Any]) -> Any:
    if all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    pairs = [[_plain(key), _plain(item)] for key, item in value.items()]
    return {"pairs": sorted(pairs, key=lambda pair: json.dumps(pair, sort_keys=True))}


def _hash_array(array: np.ndarray) -> str:
    if array.dtype.hasobject:
        raise TypeError("an array of Python objects has no stable fingerprint; give its values as a list")
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


def _hash_path(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(str(file.relative_to(path).as_posix()).encode() + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(_READ_BYTES):
                digest.update(chunk)
        digest.update(b"\0")
    return digest.hexdigest()
