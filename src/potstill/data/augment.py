"""More texts out of the training texts, without labels: the teacher labels them.

Four ways to change a text, after TinyBERT (Jiao et al. 2020, arXiv:1909.10351, section 4.2 and algorithm 1) and the heuristics of
Tang et al. 2019 (arXiv:1903.12136, section 3.2). They differ from the papers in that replacements come from the
neighbours in the teacher's own word embeddings, which needs neither GloVe nor a masked language model, and works in any language;
and in that they show the student the whole vocabulary (`potstill.data.exchange`).
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.data.exchange import CJK, IS_CJK, Exchange, exchange_of
from potstill.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

METHODS = ("replace", "delete", "mix", "ngram")
Text = str | tuple[str, str]

_UNIT = re.compile(rf"[{CJK}]\s*|[^\W{CJK}]+(?:['’-][^\W{CJK}]+)*\s*|(?:[^\w\s]|_)\s*")
_REPLACED_SHARE = (0.15, 0.5)  # between these, drawn for each text
_ALSO_REPLACED = 0.5  # of the texts that were changed in another way
_DELETED_SHARE = 0.3
_TRIES = 8


def augment_texts(
    texts: Sequence[Text],
    *,
    num: int,
    seed: int,
    tokenizer: Any = None,
    embeddings: np.ndarray | None = None,
    methods: Sequence[str] = METHODS,
) -> list[Text]:
    """Make new texts out of given ones.

    Every text is used equally often. Of a pair one side is changed at a time and the other kept, so that both sides stay
    together. No result equals a given text or another result.

    Args:
        texts: Texts, or pairs of texts.
        num: How many are wanted. Fewer come back where the texts are too few or too short for so many different ones.
        seed: Fixes the result.
        tokenizer: Whose vocabulary the replacements come from; needed by ``replace``.
        embeddings: Word embeddings [V, D] of that vocabulary; needed by ``replace``.
        methods: Any of ``replace`` (words by near neighbours and by words that the texts lack), ``delete`` (a span), ``mix``
            (the beginning of one text and the end of another), ``ngram`` (a run of words out of a text). With ``replace`` among
            them, words are also replaced in half of the texts that were made in another way.

    Raises:
        DataError: Unknown method, no texts, or no method that can run.

    Example:
        >>> augment_texts(["one two three four"], num=1, seed=1, methods=["delete"]) != ["one two three four"]
        True
    """
    chosen = _usable(methods, tokenizer is not None and embeddings is not None)
    if not texts:
        raise DataError("there are no texts to augment", "at least one text")
    sides = list(zip(*((text,) if isinstance(text, str) else text for text in texts)))
    split = [[_units(text) for text in side] for side in sides]
    exchange = exchange_of(_words(split), tokenizer, embeddings) if "replace" in chosen and embeddings is not None else None
    changes = {name: _change(name, exchange) for name in chosen}
    made: dict[Text, None] = {}
    known = set(texts)
    for text in _candidates(texts, split, changes, num * _TRIES, random.Random(seed)):
        if len(made) >= num:
            break
        if text not in known:
            made[text] = None
    if len(made) < num:
        logger.info("%d of %d augmented texts were found; the %d texts give no more", len(made), num, len(texts))
    return list(made)


def augmented_rows(texts: Sequence[Text], *, first_row_id: int, no_label: np.ndarray | None = None) -> Dataset:
    """Texts or pairs as rows without labels, ready to be encoded: ``text``, ``text_pair``, ``label``, ``row_id``.

    Args:
        texts: The texts.
        first_row_id: Row id of the first; the others follow.
        no_label: [N, ...] what stands for no label; −100 where left out.
    """
    from datasets import Dataset

    columns: dict[str, Any] = {"text": [text if isinstance(text, str) else text[0] for text in texts]}
    if texts and not isinstance(texts[0], str):
        columns["text_pair"] = [text[1] for text in texts]
    label = np.full(len(texts), -100, np.int64) if no_label is None else no_label
    columns["label"] = label if label.ndim == 1 else list(label)
    columns["row_id"] = np.arange(first_row_id, first_row_id + len(texts), dtype=np.int64)
    return Dataset.from_dict(columns)


def _usable(methods: Sequence[str], can_replace: bool) -> list[str]:
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise DataError(f"augmentation {unknown[0]!r} does not exist", ", ".join(METHODS))
    usable = [name for name in METHODS if name in methods and (can_replace or name != "replace")]
    if not usable:
        raise DataError(
            "augmentation by replacement needs a tokenizer and embeddings", "both, or another method", "add 'delete' to methods"
        )
    if "replace" in methods and not can_replace:
        logger.info("words are not replaced: that needs the teacher's tokenizer and embeddings")
    return usable


def _units(text: str) -> list[str]:
    return _UNIT.findall(text)


def _words(sides: Sequence[Sequence[Sequence[str]]]) -> Iterator[str]:
    return (unit.strip() for side in sides for units in side for unit in units if unit.strip().isalnum())


def _candidates(
    texts: Sequence[Text],
    sides: list[list[list[str]]],
    changes: dict[str, Callable[..., list[str]]],
    count: int,
    chance: random.Random,
) -> Iterator[Text]:
    order = list(range(len(texts)))
    names = list(changes)
    for number in range(count):
        if number % len(order) == 0:
            chance.shuffle(order)
        row, side = order[number % len(order)], chance.randrange(len(sides))
        other = sides[side][chance.randrange(len(order))]
        name = names[chance.randrange(len(names))]
        units = changes[name](sides[side][row], other, chance)
        if name != "replace" and "replace" in changes and chance.random() < _ALSO_REPLACED:
            units = changes["replace"](units, other, chance)
        new = "".join(units).strip()
        old = texts[row]
        if new:
            yield new if isinstance(old, str) else (new, old[1]) if side == 0 else (old[0], new)


def _change(name: str, exchange: Exchange | None) -> Callable[..., list[str]]:
    if exchange is not None and name == "replace":
        return lambda units, _, chance: replaced(units, exchange, chance)
    return {"delete": deleted, "mix": mixed, "ngram": run_of}[name]


def replaced(units: list[str], exchange: Exchange, chance: random.Random) -> list[str]:
    """Some of the words exchanged, each as likely as the next; capital letters and spacing are kept."""
    share = chance.uniform(*_REPLACED_SHARE)
    return [_swapped(unit, exchange, chance) if chance.random() < share else unit for unit in units]


def _swapped(unit: str, exchange: Exchange, chance: random.Random) -> str:
    word = unit.rstrip()
    new = exchange.word(word, chance)
    return unit if new is None else new + unit[len(word) :]


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
    if not first or not second or first[-1][-1].isspace() or IS_CJK.match(second[0]) or not second[0][0].isalnum():
        return first + second
    return [*first[:-1], first[-1] + " ", *second] if not IS_CJK.match(first[-1]) else first + second
