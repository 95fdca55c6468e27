"""Splits of conversations and texts, read from what a user gives."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from potstill.data.sources import read_source
from potstill.errors import DataError, first_line
from potstill.ground.counted import counted, inflected
from potstill.modalities.language.conversations import IS_WHOLE, Conversation, find_columns, read_rows

HELD_SHARE, FEWEST_HELD, MOST_HELD = 0.1, 1, 2000
BLOCK_LETTERS = 8_000  # of a plain text: what is drawn for a split, cut at an empty line where there is one
FEWEST_BLOCKS = 20
TEXT_SUFFIX = ".txt"


class LanguageRows:
    """What reading of folders asks of a modality: nothing is laid out in folders of its own."""

    name, noun = "language", "texts"

    def read_folder(self, folder: Any, files: Any, *, labelled: bool) -> None:
        return None


def read_splits(
    source: Any, *, validation: Any = None, test: Any = None, seed: int = 0, max_rows: int | None = None
) -> tuple[dict[str, Dataset], list[str]]:
    """Train, validation and test rows, of which the missing ones are drawn from the training rows; and what there is to say.

    Raises:
        DataError: Nothing there, or fewer rows than splits.
    """
    splits, notes = _read(source)
    if "train" not in splits and "unlabelled" in splits:
        splits["train"] = splits.pop("unlabelled")
    for name, given in (("validation", validation), ("test", test)):
        if given is not None:
            splits[name] = next(iter(_read(given)[0].values()))
    if "train" not in splits:
        raise DataError(f"the data have the splits {', '.join(splits) or 'none'}", "train", "rename one of them")
    rows = splits["train"]
    order = np.random.default_rng(seed).permutation(len(rows))
    for name in ("validation", "test"):
        if name in splits:
            continue
        count = min(MOST_HELD, max(FEWEST_HELD, round(HELD_SHARE * len(rows))))
        if len(order) <= count:
            raise DataError(
                f"the training split has {counted(len(rows), 'row')}, of which validation and test rows are to be drawn",
                "at least 3 rows, or splits of your own",
                "give more rows, or data.validation and data.test",
            )
        splits[name], order = rows.select(np.sort(order[:count])), order[count:]
        notes.append(f"{counted(count, 'training row')} {inflected(count, 'is', 'are')} the {name} split")
    if max_rows is not None:
        order = order[:max_rows]
    splits["train"] = rows.select(np.sort(order))
    return {name: splits[name] for name in ("train", "validation", "test")}, notes


def conversations(rows: Dataset, split: str, columns: Mapping[str, Any] | None = None) -> Iterator[Conversation]:
    """The rows of a split in one form.

    Raises:
        DataError: No columns of a known form, or a row that is not of it.
    """
    found = find_columns(rows.column_names, columns or {})
    return read_rows((row for row in rows if isinstance(row, Mapping)), split, found)


def _read(source: Any) -> tuple[dict[str, Dataset], list[str]]:
    path = Path(source).expanduser() if isinstance(source, str | Path) else None
    if path is not None and path.is_file() and path.suffix.lower() == TEXT_SUFFIX:
        return {"train": blocks_of([path])}, []
    if path is not None and path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        if files and all(file.suffix.lower() == TEXT_SUFFIX for file in files):
            named = {
                name: [file for file in files if re.match(rf"{name}\b", file.stem)] for name in ("train", "validation", "test")
            }
            if named["train"]:
                return {name: blocks_of(chosen) for name, chosen in named.items() if chosen}, []
            return {"train": blocks_of(files)}, []
    found = read_source(source, modality=LanguageRows(), labelled=False)  # type: ignore[arg-type]
    return dict(found.splits), list(found.notes)


def blocks_of(files: list[Path]) -> Dataset:
    """Plain texts in blocks of a few pages, cut at empty lines where there are some; the end of a file ends its text.

    Raises:
        DataError: A file is empty or no UTF-8.
    """
    rows: list[dict[str, Any]] = []
    total = sum(file.stat().st_size for file in files)
    size = max(200, min(BLOCK_LETTERS, total // FEWEST_BLOCKS))
    for file in files:
        try:
            text = file.read_text("utf-8-sig")
        except UnicodeDecodeError as err:
            raise DataError(f"{file} is no UTF-8 ({first_line(err)})", "a text in UTF-8", f"iconv -t UTF-8 {file}") from err
        if not text.strip():
            raise DataError(f"{file} is empty", "a text", "check the file")
        cut = _blocks(text, size)
        rows += [{"text": block, IS_WHOLE: number == len(cut) - 1} for number, block in enumerate(cut)]
    return Dataset.from_list(rows)


def _blocks(text: str, size: int) -> list[str]:
    """Consecutive parts of a text that make it up, of about this many letters."""
    blocks, start = [], 0
    while len(text) - start > 1.5 * size:
        ends = (text.find(mark, start + size, start + size + size // 2) for mark in ("\n\n", "\n", " "))
        stop = next((end for end in ends if end >= 0), start + size)
        blocks.append(text[start:stop])
        start = stop
    return [block for block in (*blocks, text[start:]) if block.strip()]
