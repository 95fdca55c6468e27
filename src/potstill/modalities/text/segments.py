"""Long texts → overlapping segments that a model can read whole, so that nothing past its window is lost."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from potstill.data.arrow import dataset_of, table_of
from potstill.errors import DataError
from potstill.ground.counted import inflected
from potstill.modalities.text.tokenising import token_limit

logger = logging.getLogger(__name__)

_OVERLAP = 8  # segments share an eighth of their tokens with the next
_MARGIN = 16  # a sixteenth of the window is left free for tokenizers that cut the same text into more tokens
_BATCH_ROWS = 1_024


def split_long(
    dataset: Dataset, tokenizer: Any, *, first_row_id: int, split: str, max_tokens: int | None = None
) -> tuple[Dataset, str]:
    """Split every text that is longer than the window into overlapping segments, each a row of its own.

    The first segment keeps the row id; the column ``group`` holds it for all segments of a text (every other row is a group of
    its own). Labels are those of the text. Further segments have row ids from `first_row_id` on.

    Returns:
        The rows, unchanged where no text is too long, and a note, empty in that case.

    Raises:
        DataError: Pairs of texts, or a tokenizer that does not give the places of tokens.
    """
    if "text_pair" in dataset.column_names or not getattr(tokenizer, "is_fast", False):
        what = "pairs of texts" if "text_pair" in dataset.column_names else "texts, with a tokenizer without offsets,"
        raise DataError(f"{what} cannot be split into segments", "single texts", "set data.long_texts: truncate")
    limit = token_limit(tokenizer, max_tokens)
    room = limit - tokenizer.num_special_tokens_to_add(pair=False)
    size = max(1, room - room // _MARGIN)
    rows: list[int] = []
    texts: list[str] = []
    num_split = 0
    for start in range(0, len(dataset), _BATCH_ROWS):
        batch = dataset[start : start + _BATCH_ROWS]["text"]
        encoded = tokenizer(
            list(batch), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        for place, (text, offsets) in enumerate(zip(batch, encoded["offset_mapping"]), start):
            parts = [text] if len(offsets) <= room else segments_of(text, offsets, size)
            num_split += len(parts) > 1
            rows += [place] * len(parts)
            texts += parts
    if not num_split:
        return dataset, ""
    note = (
        f"{num_split} of {len(dataset)} texts of the {split} split"
        f" {inflected(num_split, 'is', 'are')} longer than {limit} tokens;"
        f" {inflected(num_split, 'it is', 'they are')} read in"
        f" {len(rows) - len(dataset) + num_split} overlapping segments, whose answers are averaged"
    )
    logger.info("%s", note)
    return _as_rows(dataset, np.array(rows), texts, first_row_id), note


def segments_of(text: str, offsets: list[tuple[int, int]], size: int) -> list[str]:
    """Overlapping parts of a text, each of at most `size` tokens, the last one reaching its end.

    Example:
        >>> segments_of("a b c d e", [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)], 3)
        ['a b c', 'c d e']
    """
    overlap = min(size - 1, max(1, size // _OVERLAP))
    starts = range(0, max(1, len(offsets) - overlap), size - overlap)
    return [text[offsets[start][0] : offsets[min(start + size, len(offsets)) - 1][1]] for start in starts]


def _as_rows(dataset: Dataset, rows: np.ndarray, texts: list[str], first_row_id: int) -> Dataset:
    taken = table_of(dataset).take(pa.array(rows))
    groups = np.asarray(taken.column("row_id"))
    is_first = np.ones(len(rows), bool)
    is_first[1:] = rows[1:] != rows[:-1]
    ids = np.where(is_first, groups, first_row_id + np.cumsum(~is_first) - 1)
    names = taken.column_names
    taken = taken.set_column(names.index("text"), "text", pa.array(texts, taken.schema.field("text").type))
    taken = taken.set_column(names.index("row_id"), "row_id", pa.array(ids, pa.int64()))
    return dataset_of(taken.append_column("group", pa.array(groups, pa.int64())).replace_schema_metadata(None))
