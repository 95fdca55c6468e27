"""What may take a word's place in a text: near words, and those of the vocabulary that the texts hardly show.

A student sees of its teacher's vocabulary what its rows show. Words that they lack would stay as the student was cut, so every
token is offered in place of the tokens of the texts that lie nearest to it, the least used one first.
"""

# V tokens of the vocabulary, D width of their embeddings

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
IS_CJK = re.compile(rf"[{CJK}]")
NEAR = 10  # nearest tokens of each token of the texts
ANCHORS = 8  # tokens of the texts in whose place a rare one is offered
RARE = 5  # a token that the texts show less often is rare
RARE_SHARE = 0.5  # of the exchanges, where a rare token is at hand
MOST_TOKENS = 50_000  # of a vocabulary, its first ones
_LEAST_COSINE = 0.2
_CHUNK = 512


@dataclass(frozen=True)
class Token:
    """A token as it looks in a text, and whether a word begins with it."""

    surface: str
    begins: bool

    def kind(self) -> tuple[bool, str]:
        """Tokens of one kind may take each other's place."""
        script = "cjk" if IS_CJK.match(self.surface) else "number" if self.surface.isdigit() else "letters"
        return self.begins, script


class Exchange:
    """Exchanges words, each token for one of its kind.

    Half of the time a token's place is taken by a rare one that lies nearest to it, the one that was used least, else by one of
    its nearest ten, each as likely as the next. Of a word of several tokens one is exchanged.

    Args:
        near: Token → its nearest ones.
        rare: Token → rare tokens to which it is among the nearest.
        pieces: Word → its tokens.
        counts: How often the texts show each token.
    """

    def __init__(
        self,
        near: Mapping[Token, Sequence[Token]],
        rare: Mapping[Token, Sequence[Token]],
        pieces: Mapping[str, Sequence[Token]],
        counts: Counter[Token],
    ) -> None:
        self.near, self.rare, self._pieces, self._counts = near, rare, pieces, Counter(counts)

    def __bool__(self) -> bool:
        """Whether any word can be exchanged."""
        return bool(self.near or self.rare)

    def word(self, word: str, chance: random.Random) -> str | None:
        """Another word in this one's place, capital letters kept; None where there is none."""
        pieces = self._pieces.get(word)
        if not pieces:
            return None
        place = chance.randrange(len(pieces)) if len(pieces) > 1 else 0
        new = self._token(pieces[place], chance)
        if new is None:
            return None
        changed = "".join(piece.surface for piece in (*pieces[:place], new, *pieces[place + 1 :]))
        return _as_written(changed, word)

    def _token(self, token: Token, chance: random.Random) -> Token | None:
        rare, near = self.rare.get(token, ()), self.near.get(token, ())
        if rare and (not near or chance.random() < RARE_SHARE):
            new = min(rare, key=self._counts.__getitem__)
        elif near:
            new = near[chance.randrange(len(near))]
        else:
            return None
        self._counts[new] += 1
        return new


def exchange_of(words: Iterable[str], tokenizer: Any, embeddings: np.ndarray) -> Exchange:
    """What may take the place of these words, by cosine of the teacher's centred token embeddings.

    Special tokens and punctuation are never offered, a word is offered for a word, a piece for a piece, a number for a number.

    Args:
        words: All words of the texts, as often as they occur.
        tokenizer: A transformers tokenizer.
        embeddings: One row for each token id [V, D].
    """
    tokens = vocabulary(tokenizer, len(embeddings))
    ids = {token: number for number, token in tokens.items()}
    occurrences = Counter(words)
    pieces = _pieces_of(list(occurrences), tokenizer, tokens)
    counts: Counter[Token] = Counter()
    for word, its_pieces in pieces.items():
        for piece in its_pieces:
            counts[piece] += occurrences[word]
    near: dict[Token, list[Token]] = {}
    rare: dict[Token, list[Token]] = {}
    units = {token: row for begins in (True, False) for token, row in _centred(ids, embeddings, begins).items()}
    for kind in sorted({token.kind() for token in counts}):
        alike = [token for token in ids if token.kind() == kind]
        shown = [token for token in alike if token in counts]
        near.update(_nearest(shown, alike, units, NEAR))
        scarce = [token for token in alike if counts[token] < RARE]
        for token, anchors in _nearest(scarce, shown, units, ANCHORS).items():
            for anchor in anchors:
                rare.setdefault(anchor, []).append(token)
    return Exchange(near, rare, pieces, counts)


def vocabulary(tokenizer: Any, size: int) -> dict[int, Token]:
    """Tokens of letters or of digits, for WordPiece, byte-level BPE and SentencePiece vocabularies: id → token.

    Of spellings that occur twice the first is kept, and a single letter is no word but in scripts without spaces.

    Args:
        tokenizer: A transformers tokenizer.
        size: V; ids beyond it have no embedding.
    """
    special = set(tokenizer.all_special_ids)
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    mark = mark_of(token for token, _ in ordered)
    found: dict[Token, int] = {}
    for spelling, number in ordered:
        if number in special or number >= size or len(found) >= MOST_TOKENS:
            continue
        token = _token_of(spelling, mark)
        if token is not None:
            found.setdefault(token, number)
    return {number: token for token, number in found.items()}


def mark_of(spellings: Iterable[str]) -> str:
    """What the vocabulary puts before a word: "▁", "Ġ", or nothing, where "##" is before pieces instead."""
    first = [spelling for spelling, _ in zip(spellings, range(5000))]
    return next((mark for mark in ("▁", "Ġ") if sum(spelling.startswith(mark) for spelling in first) > 5), "")


def _token_of(spelling: str, mark: str) -> Token | None:
    if mark:
        surface = spelling.removeprefix(mark)
        begins = spelling.startswith(mark) or bool(IS_CJK.fullmatch(spelling))
        if mark == "Ġ" and not surface.isascii():  # bytes of other letters, which look like letters themselves
            return None
    else:
        surface, begins = spelling.removeprefix("##"), not spelling.startswith("##")
    is_word = surface.isalpha() and (len(surface) > 1 or not begins or bool(IS_CJK.match(surface)))
    is_number = surface.isdecimal() and surface.isascii()
    return Token(surface, begins) if is_word or is_number else None


def _pieces_of(words: Sequence[str], tokenizer: Any, tokens: Mapping[int, Token]) -> dict[str, tuple[Token, ...]]:
    """Word → its tokens, as it is or in small letters; words that a token spoils which is no candidate are left out."""
    lead = " " if any(spelling.startswith("Ġ") for spelling in tokenizer.get_vocab()) else ""
    found: dict[str, tuple[Token, ...]] = {}
    for written in (str, str.lower):
        left = [word for word in words if word not in found]
        encoded = tokenizer([lead + written(word) for word in left], add_special_tokens=False)["input_ids"] if left else []
        for word, ids in zip(left, encoded):
            pieces = tuple(tokens[number] for number in ids if number in tokens)
            if ids and len(pieces) == len(ids) and "".join(piece.surface for piece in pieces).lower() == word.lower():
                found[word] = pieces
    return found


def _centred(ids: Mapping[Token, int], embeddings: np.ndarray, begins: bool) -> dict[Token, np.ndarray]:
    """Directions, seen from their mean, of the tokens with which words begin, or of the others."""
    own = [token for token in ids if token.begins == begins]
    rows = np.asarray(embeddings, np.float32)[[ids[token] for token in own]]
    rows = rows - rows.mean(0) if own else rows
    return dict(zip(own, rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)))


def _nearest(
    wanted: Sequence[Token], among: Sequence[Token], units: Mapping[Token, np.ndarray], count: int
) -> dict[Token, list[Token]]:
    """The nearest tokens of each, nearest first; none is its own, in other capital letters neither."""
    found: dict[Token, list[Token]] = {}
    if not among:
        return found
    candidates = np.stack([units[token] for token in among])
    width = min(count + 4, len(among))
    for chunk in _chunks(wanted):
        scores = np.stack([units[token] for token in chunk]) @ candidates.T
        best = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        for token, row, score in zip(chunk, best, scores):
            ranked = row[np.argsort(-score[row], kind="stable")]
            near = [among[i] for i in ranked if score[i] >= _LEAST_COSINE and among[i].surface.lower() != token.surface.lower()]
            if near:
                found[token] = near[:count]
    return found


def _chunks(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    for start in range(0, len(tokens), _CHUNK):
        yield tokens[start : start + _CHUNK]


def _as_written(new: str, old: str) -> str:
    if not old[0].isupper() or new[0].isupper():
        return new
    return new.upper() if len(old) > 1 and old.isupper() else new[0].upper() + new[1:]
