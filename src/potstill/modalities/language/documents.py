"""Encoded documents on disk: tokens, which of them are learned, and where each document begins.

Shapes: M documents, N tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from potstill.errors import DataError
from potstill.ground.disk import fingerprint, read_json, write_json_atomic

TOKENS, LEARNED, STARTS, BYTES = "tokens.npy", "learned.npy", "starts.npy", "bytes.npy"
FACTS = "documents.json"


@dataclass(frozen=True)
class Document:
    """One document in tokens.

    Args:
        tokens: [T] token ids.
        learned: [T] true on the tokens that are to be predicted; the first of a document cannot be.
        num_bytes: Bytes of text that the learned tokens stand for.
    """

    tokens: np.ndarray
    learned: np.ndarray
    num_bytes: int


class Documents:
    """The documents of a split; the sample id of a document is its number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = np.load(folder / TOKENS, mmap_mode="r")
        self.learned = np.load(folder / LEARNED, mmap_mode="r")
        self.starts = np.load(folder / STARTS)
        self.num_bytes = np.load(folder / BYTES)
        self.facts: dict[str, Any] = read_json(folder / FACTS) or {}

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Document:
        span = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return Document(np.asarray(self.tokens[span]), np.asarray(self.learned[span]), int(self.num_bytes[index]))

    @property
    def lengths(self) -> np.ndarray:
        """[M] tokens of each document."""
        return np.diff(self.starts)

    @cached_property
    def fingerprint(self) -> str:
        """Of all tokens, and of which of them are learned."""
        return fingerprint([np.asarray(self.tokens), np.asarray(self.learned), self.starts])


def write_documents(documents: Iterable[Document], folder: Path, facts: dict[str, Any]) -> Documents:
    """Write documents into a folder, and open them.

    Raises:
        DataError: There is no document, or no token that is learned.
    """
    found = list(documents)
    if not any(one.learned.any() for one in found):
        raise DataError("no token of the rows is to be learned", "texts, or conversations with an answer", "check data.columns")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / TOKENS, np.concatenate([one.tokens for one in found]).astype(np.uint32))
    np.save(folder / LEARNED, np.concatenate([one.learned for one in found]).astype(bool))
    np.save(folder / STARTS, np.concatenate([[0], np.cumsum([len(one.tokens) for one in found])]).astype(np.int64))
    np.save(folder / BYTES, np.array([one.num_bytes for one in found], np.int64))
    write_json_atomic(folder / FACTS, facts)
    return Documents(folder)
