"""More rows of words out of the training rows, without tags: the teacher tags them."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from potstill.modalities.text.augment import Neighbours, deleted, mixed, nearest_words, replaced, run_of

logger = logging.getLogger(__name__)

_TRIES = 8
Words = tuple[str, ...]


def augment_words(
    rows: Sequence[Sequence[str]], *, num: int, seed: int, tokenizer: Any = None, embeddings: np.ndarray | None = None
) -> list[list[str]]:
    """Make new rows of words by the four changes of `potstill.modalities.text.augment`, each of which keeps whole words.

    Words are exchanged one for one, a span is left out, the beginning of one row and the end of another are joined, or a run is
    taken. Empty words are left
    out. Every row is used equally often; no result equals a given row or another result. Without embeddings words are not
    exchanged.

    Example:
        >>> len(augment_words([["one", "two", "three", "four"]], num=2, seed=0))
        2
    """
    held = (tuple(word for word in row if word.strip()) for row in rows)
    given = [row for row in held if len(row) > 1]
    known, made = set(given), dict[Words, None]()
    chance = random.Random(seed)
    neighbours = _neighbours(given, tokenizer, embeddings)
    order = list(range(len(given)))
    for number in range(num * _TRIES if given else 0):
        if len(made) >= num:
            break
        if number % len(order) == 0:
            chance.shuffle(order)
        words = given[order[number % len(order)]]
        new = _changed(words, given[chance.randrange(len(given))], neighbours, chance)
        if new and new not in known:
            made[new] = None
    if len(made) < num:
        logger.info("%d of %d augmented rows were found; the %d rows give no more", len(made), num, len(rows))
    return [list(words) for words in made]


def rows_of_words(rows: Sequence[Sequence[str]], *, first_row_id: int) -> Dataset:
    """Rows without tags, ready to be encoded: ``tokens``, ``label`` (empty lists), ``row_id``."""
    from datasets import Features, Value
    from datasets import List as ListFeature

    features = Features(
        {"tokens": ListFeature(Value("large_string")), "label": ListFeature(Value("int64")), "row_id": Value("int64")}
    )
    ids = list(range(first_row_id, first_row_id + len(rows)))
    return Dataset.from_dict({"tokens": list(rows), "label": [[] for _ in rows], "row_id": ids}, features=features)


def _neighbours(rows: Sequence[Words], tokenizer: Any, embeddings: np.ndarray | None) -> Neighbours:
    if tokenizer is None or embeddings is None:
        return {}
    words = sorted({word for row in rows for word in row if word.isalpha()})
    return nearest_words(words, tokenizer, embeddings)


def _changed(words: Words, other: Words, neighbours: Neighbours, chance: random.Random) -> Words:
    kind = chance.randrange(4 if neighbours else 3)
    if kind == 3:
        new = replaced(list(words), neighbours, chance)
    else:
        new = (deleted, mixed, run_of)[kind](list(words), list(other), chance)
    return tuple(word.strip() for word in new if word.strip())
