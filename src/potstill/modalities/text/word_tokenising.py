"""Rows of words → token ids on disk, with the place of every word among them."""

# U words of a row

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from potstill.data.encoded import EncodedUnits, batches_of, has_rows
from potstill.data.fingerprint import hash_of, rows_hash
from potstill.data.row_files import ABSENT, UnitWriter
from potstill.errors import ModelError
from potstill.ground.counted import inflected
from potstill.modalities.text.tokenising import row_of, token_limit, tokenizer_hash

logger = logging.getLogger(__name__)

_BATCH_ROWS = 1_024


def encode_words(dataset: Dataset, tokenizer: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedUnits:
    """Tokenise ``tokens`` of every row into a folder, or open it where it holds the same already.

    The first token of a word stands for it: it carries the word's tag, and the answer is read there. Words beyond `max_tokens`
    are left out, and counted in the notes.

    Raises:
        DataError: `max_tokens` leaves no room for text.
        ModelError: The tokenizer does not say where words are.
    """
    check_word_places(tokenizer)
    limit = token_limit(tokenizer, max_tokens)
    fingerprint = hash_of("words", rows_hash(dataset), tokenizer_hash(tokenizer), str(limit))
    if has_rows(folder, fingerprint):
        return EncodedUnits(folder)
    writer, num_words, num_absent = UnitWriter(folder), 0, 0
    for rows in batches_of(len(dataset), _BATCH_ROWS):
        batch = dataset[rows.start : rows.stop]
        encoded = tokenizer(
            batch["tokens"], is_split_into_words=True, truncation=True, max_length=limit, return_attention_mask=False
        )
        made = [_row(batch, encoded, index) for index in range(len(batch["row_id"]))]
        num_words += sum(len(row["unit_positions"]) for row in made)
        num_absent += sum(int((row["unit_positions"] == ABSENT).sum()) for row in made)
        writer.add(made)
    note = (
        f"{num_absent} of {num_words} words {inflected(num_absent, 'lies', 'lie')} beyond {limit} tokens,"
        f" or {inflected(num_absent, 'has', 'have')} no token, and are not answered"
    )
    if num_absent:
        logger.warning("%s", note)
    writer.close(fingerprint, [note] if num_absent else [])
    return EncodedUnits(folder)


def check_word_places(tokenizer: Any) -> None:
    """Make sure that a tokenizer can say which token belongs to which word.

    Raises:
        ModelError: It is written in Python alone, and cannot.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} does not say which token belongs to which word",
            "a tokenizer with a tokenizer.json (the fast kind)",
            "save it in that form: AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(…)",
        )


def _row(batch: dict[str, list[Any]], encoded: Any, index: int) -> dict[str, Any]:
    positions = first_tokens(encoded.word_ids(index), len(batch["tokens"][index]))
    tags = batch["label"][index]
    labels = np.where(positions >= 0, np.array(tags, np.int64) if len(tags) else -100, -100)
    return row_of(batch, encoded, index) | {"labels": labels, "unit_positions": positions}


def first_tokens(word_ids: list[int | None], num_words: int) -> np.ndarray:
    """The position of the first token of each word [U] int64; `ABSENT` for words without one.

    Example:
        >>> first_tokens([None, 0, 0, 1, None], 3).tolist()
        [1, 3, -1]
    """
    positions = np.full(num_words, ABSENT, np.int64)
    for place in range(len(word_ids) - 1, -1, -1):
        word = word_ids[place]
        if word is not None:
            positions[word] = place
    return positions
