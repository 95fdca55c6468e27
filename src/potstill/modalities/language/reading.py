"""Splits of conversations and texts, read from what a user gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from potstill.data.sources import read_source
from potstill.errors import DataError
from potstill.modalities.language.conversations import Conversation, read_rows

HELD_SHARE, FEWEST_HELD, MOST_HELD = 0.1, 1, 2000


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
    found = read_source(source, modality=LanguageRows(), labelled=False)  # type: ignore[arg-type]
    splits, notes = dict(found.splits), list(found.notes)
    if "train" not in splits and "unlabelled" in splits:
        splits["train"] = splits.pop("unlabelled")
    for name, given in (("validation", validation), ("test", test)):
        if given is not None:
            splits[name] = next(iter(read_source(given, modality=LanguageRows(), labelled=False).splits.values()))  # type: ignore[arg-type]
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
                f"the training split has {len(rows)} rows, of which validation and test rows are to be drawn",
                "at least 3 rows, or splits of your own",
                "give more rows, or data.validation and data.test",
            )
        splits[name], order = rows.select(np.sort(order[:count])), order[count:]
        notes.append(f"{count:,} of the training rows are the {name} split")
    if max_rows is not None:
        order = order[:max_rows]
    splits["train"] = rows.select(np.sort(order))
    return {name: splits[name] for name in ("train", "validation", "test")}, notes


def conversations(rows: Dataset, split: str) -> Iterator[Conversation]:
    """The rows of a split in one form."""
    return read_rows((row for row in rows if isinstance(row, Mapping)), split)
