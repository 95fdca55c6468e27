"""Texts → token ids on disk, once, in batches."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from tokenizers import normalizers

from potstill.data.encoded import EncodedText, batches_of, has_rows
from potstill.data.fingerprint import hash_of, rows_hash
from potstill.data.row_files import TextWriter
from potstill.errors import DataError
from potstill.ground.counted import inflected
from potstill.models.sentence_files import SentenceFiles

logger = logging.getLogger(__name__)

LONGEST_DEFAULT_TOKENS = 512
_BATCH_ROWS = 1_024


def encode_text(dataset: Dataset, tokenizer: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedText:
    """Tokenise ``text`` (and ``text_pair``) of every row into a folder, or open it where it holds the same already.

    Rows longer than `max_tokens` (None: the tokenizer's limit, at most 512) are cut, pairs at the longer side first, and counted.

    Raises:
        DataError: `max_tokens` leaves no room for text.
    """
    limit = token_limit(tokenizer, max_tokens)
    fingerprint = hash_of("text", rows_hash(dataset), tokenizer_hash(tokenizer), str(limit))
    if has_rows(folder, fingerprint):
        return EncodedText(folder)
    has_pair = "text_pair" in dataset.column_names
    writer, num_cut = TextWriter(folder), 0
    for rows in batches_of(len(dataset), _BATCH_ROWS):
        batch = dataset[rows.start : rows.stop]
        pair = batch["text_pair"] if has_pair else None
        encoded = tokenizer(batch["text"], pair, truncation=True, max_length=limit, padding=False, return_attention_mask=False)
        num_cut += _num_cut(tokenizer, encoded["input_ids"], batch["text"], pair, limit)
        writer.add([row_of(batch, encoded, index) | {"labels": label} for index, label in enumerate(batch["label"])])
    note = (
        f"{num_cut} of {len(dataset)} texts {inflected(num_cut, 'is', 'are')} longer than {limit} tokens"
        f" and {inflected(num_cut, 'was', 'were')} cut"
    )
    if num_cut:
        longest = int(min(getattr(tokenizer, "model_max_length", limit), 1 << 30))
        todo = f"set data.max_tokens: {longest}" if longest > limit else "the model takes no more"
        logger.warning("%s; %s", note, todo)
    writer.close(fingerprint, [note] if num_cut else [])
    return EncodedText(folder)


def row_of(batch: Mapping[str, Any], encoded: Any, index: int) -> dict[str, Any]:
    """A row of a batch as it is stored: its ids, and what the tokenizer gave for it."""
    row = {name: encoded[name][index] for name in ("input_ids", "token_type_ids") if name in encoded}
    row["row_id"] = batch["row_id"][index]
    return row | ({"group": batch["group"][index]} if "group" in batch else {})


def follow(sentences: SentenceFiles, tokenizer: Any) -> None:
    """Let a tokenizer read texts as sentence-transformers would: no longer than it stops at, in lower case where it says so."""
    if sentences.max_tokens is not None:
        tokenizer.model_max_length = sentences.max_tokens
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if sentences.lowers_case and backend is not None:
        before = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])


def _num_cut(tokenizer: Any, ids: list[list[int]], texts: list[str], pairs: list[str] | None, limit: int) -> int:
    full = [i for i, row in enumerate(ids) if len(row) >= limit]
    if not full:
        return 0
    second = [pairs[i] for i in full] if pairs else None
    whole = tokenizer(
        [texts[i] for i in full], second, truncation=False, padding=False, return_attention_mask=False, verbose=False
    )
    return sum(1 for row in whole["input_ids"] if len(row) > limit)


def token_limit(tokenizer: Any, max_tokens: int | None) -> int:
    """The longest row in tokens, special ones included.

    Raises:
        DataError: `max_tokens` is too small for one token of text, or more than the tokenizer's limit.
    """
    own = int(min(getattr(tokenizer, "model_max_length", LONGEST_DEFAULT_TOKENS), 1 << 30))
    if max_tokens is None:
        return min(own, LONGEST_DEFAULT_TOKENS)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if not special < max_tokens <= own:
        raise DataError(
            f"max_tokens is {max_tokens}",
            f"a whole number from {special + 1} to {own}, the limit of this model",
            f"set data.max_tokens: {min(own, LONGEST_DEFAULT_TOKENS)}",
        )
    return max_tokens


def tokenizer_hash(tokenizer: Any) -> str:
    """The hash of what a tokenizer does with text; its padding and truncation settings are left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hash_of(
            type(tokenizer).__name__, json.dumps(tokenizer.get_vocab(), sort_keys=True), str(tokenizer.special_tokens_map)
        )
    state = json.loads(backend.to_str())
    state.pop("truncation", None)
    state.pop("padding", None)
    return hash_of(json.dumps(state, sort_keys=True), str(tokenizer.truncation_side), str(sorted(tokenizer.model_input_names)))
