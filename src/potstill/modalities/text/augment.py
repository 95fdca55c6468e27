"""More texts out of the training texts, without labels: the teacher labels them.

Four ways to change a text, after TinyBERT (Jiao et al. 2020, arXiv:1909.10351, section 4.2 and algorithm 1) and the heuristics of
Tang et al. 2019 (arXiv:1903.12136, section 3.2). They differ from the papers in that replacements come from the
neighbours in the teacher's own word embeddings, which needs neither GloVe nor a masked language model, and works in any language.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Text = str | tuple[str, str]
Neighbours = dict[str, tuple[str, ...]]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_UNIT = re.compile(rf"[{_CJK}]\s*|[^\W{_CJK}]+(?:['’-][^\W{_CJK}]+)*\s*|(?:[^\w\s]|_)\s*")
_IS_CJK = re.compile(rf"[{_CJK}]")
_REPLACED_SHARE = (0.15, 0.5)  # between these, drawn for each text
_ALSO_REPLACED = 0.5  # of the texts that were changed in another way
_DELETED_SHARE = 0.3
_TRIES = 8
_LEAST_COSINE = 0.2


def augment_texts(
    texts: Sequence[Text], *, num: int, seed: int, tokenizer: Any = None, embeddings: np.ndarray | None = None
) -> list[Text]:
    """Make new texts out of given ones: without a span, mixed of two, or a run of words of one.

    With embeddings words are also replaced by near neighbours, alone or in half of the texts that were made in another way.
    Every text is used equally often. Of a pair one side is changed at a time. No result equals a given text or another result.

    Args:
        texts: Texts, or pairs of texts.
        num: How many are wanted. Fewer come back where the texts are too few or too short for that many different ones.
        seed: Fixes the result.
        tokenizer: Whose vocabulary the replacements come from.
        embeddings: Word embeddings [V, D] of that vocabulary; without them words are not replaced.

    Raises:
        DataError: No texts.

    Example:
        >>> augment_texts(["one two three four"], num=1, seed=1) != ["one two three four"]
        True
    """
    if not texts:
        raise DataError("there are no texts to augment", "at least one text")
    sides = list(zip(*((text,) if isinstance(text, str) else text for text in texts)))
    split = [[_units(text) for text in side] for side in sides]
    neighbours = None if embeddings is None else nearest_words(_words(split), tokenizer, embeddings)
    made: dict[Text, None] = {}
    known = set(texts)
    for text in _candidates(texts, split, neighbours, num * _TRIES, random.Random(seed)):
        if len(made) >= num:
            break
        if text not in known:
            made[text] = None
    if len(made) < num:
        logger.info("%d of %d augmented texts were found; the %d texts give no more", len(made), num, len(texts))
    return list(made)


def augmented_rows(texts: Sequence[Text], *, first_row_id: int, no_label: np.ndarray | None = None) -> Dataset:
    """Texts or pairs as rows without labels, ready to be encoded: ``text``, ``text_pair``, ``label``, ``row_id``."""
    from datasets import Dataset

    columns: dict[str, Any] = {"text": [text if isinstance(text, str) else text[0] for text in texts]}
    if texts and not isinstance(texts[0], str):
        columns["text_pair"] = [text[1] for text in texts]
    label = np.full(len(texts), -100, np.int64) if no_label is None else no_label
    columns["label"] = label if label.ndim == 1 else list(label)
    columns["row_id"] = np.arange(first_row_id, first_row_id + len(texts), dtype=np.int64)
    return Dataset.from_dict(columns)


def _units(text: str) -> list[str]:
    return _UNIT.findall(text)


def _words(sides: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    return sorted({unit.strip() for side in sides for units in side for unit in units if unit.strip().isalpha()})


def _candidates(
    texts: Sequence[Text],
    sides: list[list[list[str]]],
    neighbours: Neighbours | None,
    count: int,
    chance: random.Random,
) -> Iterator[Text]:
    order = list(range(len(texts)))
    changes = [deleted, mixed, run_of] if neighbours is None else [None, deleted, mixed, run_of]
    for number in range(count):
        if number % len(order) == 0:
            chance.shuffle(order)
        row, side = order[number % len(order)], chance.randrange(len(sides))
        other = sides[side][chance.randrange(len(order))]
        change, units = changes[chance.randrange(len(changes))], sides[side][row]
        if change is not None:
            units = change(units, other, chance)
        if neighbours is not None and (change is None or chance.random() < _ALSO_REPLACED):
            units = replaced(units, neighbours, chance)
        new = "".join(units).strip()
        old = texts[row]
        if new:
            yield new if isinstance(old, str) else (new, old[1]) if side == 0 else (old[0], new)


def replaced(units: list[str], neighbours: Neighbours, chance: random.Random) -> list[str]:
    """Some of the words exchanged for near neighbours, each as likely as the next; capital letters and spacing are kept."""
    share = chance.uniform(*_REPLACED_SHARE)
    return [_swapped(unit, neighbours, chance) if chance.random() < share else unit for unit in units]


def _swapped(unit: str, neighbours: Neighbours, chance: random.Random) -> str:
    word = unit.rstrip()
    near = neighbours.get(word)
    if not near:
        return unit
    new = near[chance.randrange(len(near))]
    if word[0].isupper() and not new[0].isupper():
        new = new.upper() if len(word) > 1 and word.isupper() else new[0].upper() + new[1:]
    return new + unit[len(word) :]


def deleted(units: list[str], _: list[str], chance: random.Random) -> list[str]:
    """The text without one span of at most 0.3 of its words; texts of one or two words stay as they are."""
    if len(units) < 3:
        return units
    width = chance.randint(1, max(1, int(len(units) * _DELETED_SHARE)))
    start = chance.randint(0, len(units) - width)
    return _joined(units[:start], units[start + width :])


def mixed(units: list[str], other: list[str], chance: random.Random) -> list[str]:
    """The beginning of one text, followed by the end of another."""
    if not units or not other:
        return units
    return _joined(units[: chance.randint(1, len(units))], other[chance.randint(0, len(other) - 1) :])


def run_of(units: list[str], _: list[str], chance: random.Random) -> list[str]:
    """A run of neighbouring words, at least three and at least 0.3 of the text."""
    least = min(len(units), max(3, int(len(units) * 0.3)))
    width = chance.randint(least, len(units))
    start = chance.randint(0, len(units) - width)
    return units[start : start + width]


def _joined(first: list[str], second: list[str]) -> list[str]:
    if not first or not second or first[-1][-1].isspace() or _IS_CJK.match(second[0]) or not second[0][0].isalnum():
        return first + second
    return [*first[:-1], first[-1] + " ", *second] if not _IS_CJK.match(first[-1]) else first + second


def nearest_words(words: Sequence[str], tokenizer: Any, embeddings: np.ndarray, *, count: int = 10) -> Neighbours:
    """The nearest `count` whole words of the vocabulary for each word, by cosine of centred embeddings [V, D].

    Words that are no single token are left out: the mean of pieces lies near other pieces rather than near words of like meaning.
    Special tokens, pieces of words, numbers and punctuation are never neighbours, and no word is its own neighbour.

    Returns:
        Word → its neighbours, nearest first; words without any are left out.
    """
    surfaces = whole_words(tokenizer, len(embeddings))
    words = [word for word in words if word in surfaces or word.lower() in surfaces]
    if not words:
        return {}
    ids = np.array(list(surfaces.values()))
    names = list(surfaces)
    table = np.asarray(embeddings, np.float32)
    table = table - table[ids].mean(0)
    candidates = _unit_length(table[ids])
    own = np.array([surfaces[word] if word in surfaces else surfaces[word.lower()] for word in words])
    found: Neighbours = {}
    for start in range(0, len(words), 256):
        chunk = words[start : start + 256]
        scores = _unit_length(table[own[start : start + 256]]) @ candidates.T
        width = min(count + 4, scores.shape[1])
        best = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        for word, row, score in zip(chunk, best, scores):
            ranked = row[np.argsort(-score[row], kind="stable")]
            near = [names[i] for i in ranked if names[i].lower() != word.lower() and score[i] >= _LEAST_COSINE]
            kept = tuple(name for name in near if bool(_IS_CJK.match(name)) == bool(_IS_CJK.match(word)))[:count]
            if kept:
                found[word] = kept
    return found


def whole_words(tokenizer: Any, size: int) -> dict[str, int]:
    """Tokens that are whole words of letters: surface → id, for WordPiece, byte-level BPE and SentencePiece vocabularies."""
    special = set(tokenizer.all_special_ids)
    vocabulary = tokenizer.get_vocab()
    mark = next((mark for mark in ("▁", "Ġ") if sum(token.startswith(mark) for token in list(vocabulary)[:5000]) > 5), "")
    surfaces: dict[str, int] = {}
    for token, number in sorted(vocabulary.items(), key=lambda item: item[1]):
        if number in special or number >= size or token.startswith("##"):
            continue
        surface = token.removeprefix(mark) if mark else token
        if mark == "Ġ" and not surface.isascii():  # bytes of other letters, which look like letters themselves
            continue
        begins_word = not mark or token.startswith(mark) or bool(_IS_CJK.fullmatch(token))
        if begins_word and surface.isalpha() and (len(surface) > 1 or _IS_CJK.match(surface)):
            surfaces.setdefault(surface, number)
    return surfaces


def _unit_length(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
