"""Contexts of questions in words and overlapping windows, and what an answer is among them."""

# U units of a window: none, then its words

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from datasets import List as ListFeature

from potstill.data.encoded import EncodedUnits, batches_of, has_rows
from potstill.data.fingerprint import hash_of, rows_hash
from potstill.data.row_files import ABSENT, UnitWriter
from potstill.data.words import Span, words_of
from potstill.ground.counted import counted, inflected
from potstill.modalities.text.tokenising import row_of, token_limit, tokenizer_hash
from potstill.modalities.text.word_tokenising import check_word_places

_OVERLAP = 4  # a quarter of a window stands in the next one too
_MARGIN = 16
_BATCH_ROWS = 256


def into_windows(
    dataset: Dataset, tokenizer: Any, *, first_row_id: int, split: str, max_tokens: int | None = None
) -> tuple[Dataset, str]:
    """Rows of ``question``, ``context`` and ``label`` (answers) as rows of windows.

    A context that is too long together with its question becomes several windows, which overlap by a quarter. The new ``label``
    is the first and the last unit of the answer in the window, where unit 0 stands for "no answer here" and unit 1 for the first
    word; empty where nothing is known. ``answers`` keeps the texts of all answers to the question, ``group`` the row id of its
    first window; further windows have row ids from `first_row_id` on.
    """
    check_word_places(tokenizer)
    limit = token_limit(tokenizer, max_tokens)
    room = limit - tokenizer.num_special_tokens_to_add(pair=True)
    made: dict[str, list[Any]] = {name: [] for name in ("question", "context", "label", "answers", "row_id", "group")}
    num_split, num_cut, free = 0, 0, first_row_id
    for row in dataset:
        question, is_cut = _fitting(row["question"], tokenizer, room // 2)
        num_cut += is_cut
        size = room - len(_offsets(question, tokenizer))
        spans = _windows(row["context"], tokenizer, size)
        num_split += len(spans) > 1
        for number, (start, end) in enumerate(spans):
            made["question"].append(question)
            made["context"].append(row["context"][start:end])
            made["label"].append(_label(row["context"], (start, end), row["label"]))
            made["answers"].append([answer["text"] for answer in row["label"]])
            made["row_id"].append(row["row_id"] if number == 0 else free)
            made["group"].append(row["row_id"])
            free += number > 0
    notes = []
    if num_split:
        notes.append(
            f"{num_split} of {len(dataset)} contexts of the {split} split"
            f" {inflected(num_split, 'is', 'are')} read in overlapping windows of {limit} tokens"
        )
    if num_cut:
        one = f"question of the {split} split is longer than half a window and was cut"
        many = f"questions of the {split} split are longer than half a window and were cut"
        notes.append(counted(num_cut, one, many))
    return Dataset.from_dict(made, features=_FEATURES), "; ".join(notes)


_FEATURES = Features(
    {
        "question": Value("large_string"),
        "context": Value("large_string"),
        "label": ListFeature(Value("int64")),
        "answers": ListFeature(Value("large_string")),
        "row_id": Value("int64"),
        "group": Value("int64"),
    }
)


def encode_questions(dataset: Dataset, tokenizer: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedUnits:
    """Tokenise windows into a folder, or open it where it holds the same already.

    The tokenizer may be another one than the windows were measured with. Words beyond `max_tokens` cannot be answers, and are
    counted in the notes.
    """
    check_word_places(tokenizer)
    limit = token_limit(tokenizer, max_tokens)
    fingerprint = hash_of("questions", rows_hash(dataset), tokenizer_hash(tokenizer), str(limit))
    if has_rows(folder, fingerprint):
        return EncodedUnits(folder)
    writer, num_absent = UnitWriter(folder), 0
    for rows in batches_of(len(dataset), _BATCH_ROWS):
        batch = dataset[rows.start : rows.stop]
        encoded = tokenizer(
            batch["question"],
            batch["context"],
            truncation="only_second",
            max_length=limit,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        made = [_row(batch, encoded, index, tokenizer.cls_token_id) for index in range(len(batch["row_id"]))]
        num_absent += sum(int((row["unit_positions"] == ABSENT).sum()) for row in made)
        writer.add(made)
    lie = f"beyond {limit} tokens, or {inflected(num_absent, 'has', 'have')} no token"
    note = (
        f"{counted(num_absent, 'word of contexts lies', 'words of contexts lie')} {lie}, and no answer is there in these windows"
    )
    writer.close(fingerprint, [note] if num_absent else [])
    return EncodedUnits(folder)


def _row(batch: dict[str, list[Any]], encoded: Any, index: int, cls_id: int | None) -> dict[str, Any]:
    ids = encoded["input_ids"][index]
    places = [place for place, part in enumerate(encoded.sequence_ids(index)) if part == 1]
    firsts, lasts = token_range(
        words_of(batch["context"][index]), [encoded["offset_mapping"][index][place] for place in places], places
    )
    none = ids.index(cls_id) if cls_id in ids else 0
    label = batch["label"][index]
    labels = np.array(label if len(label) else (-100, -100), np.int64)
    positions, ends = np.concatenate([[none], firsts]), np.concatenate([[none], lasts])
    if labels[0] >= 0 and (positions[labels] < 0).any():
        labels = np.zeros(2, np.int64)  # the answer was cut off: this window has none
    return row_of(batch, encoded, index) | {"labels": labels, "unit_positions": positions, "unit_ends": ends}


def token_range(words: Sequence[Span], offsets: Sequence[Span], places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The places of the first and the last token of each word [U], `ABSENT` for words without one.

    Words and `offsets` of tokens are counted in characters.
    """
    if not words or not offsets:
        return np.full(len(words), ABSENT), np.full(len(words), ABSENT)
    starts, stops = np.array(words).T
    token_starts, token_stops = np.array(offsets).T
    first = np.searchsorted(token_stops, starts, side="right")
    last = np.searchsorted(token_starts, stops, side="left") - 1
    is_there = (first <= last) & (first < len(offsets))
    where = np.asarray(places)
    pick = np.minimum(first, len(offsets) - 1), np.maximum(last, 0)
    return np.where(is_there, where[pick[0]], ABSENT), np.where(is_there, where[pick[1]], ABSENT)


def _offsets(text: str, tokenizer: Any) -> list[Span]:
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    return list(tokenizer(text, **options)["offset_mapping"])


def _fitting(question: str, tokenizer: Any, most: int) -> tuple[str, bool]:
    offsets = _offsets(question, tokenizer)
    return (question, False) if len(offsets) <= most else (question[: offsets[most - 1][1]], True)


def _windows(context: str, tokenizer: Any, size: int) -> list[Span]:
    """Characters of each window, whole words, at most `size` tokens (less a margin, where there are several)."""
    words, offsets = words_of(context), _offsets(context, tokenizer)
    if len(offsets) <= size or not words:
        return [(0, len(context))]
    size -= size // _MARGIN
    firsts, lasts = token_range(words, offsets, range(len(offsets)))
    firsts, lasts = np.maximum.accumulate(firsts), np.maximum.accumulate(lasts)
    spans, start = [], 0
    while True:
        stop = max(start, int(np.searchsorted(lasts, firsts[start] + size, side="left")) - 1)
        spans.append((words[start][0], words[stop][1]))
        if stop >= len(words) - 1:
            return spans
        start = max(start + 1, int(np.searchsorted(firsts, firsts[start] + size - size // _OVERLAP, side="left")))
        start = min(start, stop + 1)


def _label(context: str, window: Span, answers: Sequence[dict[str, Any]]) -> list[int]:
    """First and last unit of the first answer that stands whole in the window; [0, 0] where none does."""
    if any(answer["answer_start"] < 0 for answer in answers):
        return []
    words = words_of(context[window[0] : window[1]])
    for answer in answers:
        start = answer["answer_start"] - window[0]
        stop = start + len(answer["text"])
        if start < 0 or window[0] + stop > window[1]:
            continue
        inside = [place for place, (first, last) in enumerate(words) if last > start and first < stop]
        if inside:
            return [inside[0] + 1, inside[-1] + 1]
    return [0, 0]
