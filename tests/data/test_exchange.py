"""Words in the place of others: near ones, and in the end the whole vocabulary."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from potstill.data import exchange
from potstill.data.augment import augment_texts
from potstill.data.exchange import RARE, Token, exchange_of, vocabulary


def wordpiece(words: list[str]) -> PreTrainedTokenizerFast:
    table = {word: number for number, word in enumerate(["[UNK]", *words])}
    backend = Tokenizer(models.WordPiece(table, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def byte_level(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    table = {token: number for number, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    backend = Tokenizer(models.BPE(table, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def directions(count: int, groups: list[list[int]]) -> np.ndarray:
    """Embeddings [count, D] in which the members of a group lie near each other."""
    table = np.eye(count, count + 5, dtype=np.float32)
    for group in groups:
        for member in group[1:]:
            table[member] = 0.9 * table[group[0]] + 0.1 * table[member]
    return table


def test_only_words_pieces_and_numbers_are_offered(tokenizer) -> None:
    found = set(vocabulary(tokenizer, 20).values())
    words = {"good", "great", "bad", "awful", "film", "movie", "the", "was", "is", "好", "坏", "电", "影"}
    assert found == {*(Token(word, True) for word in words), Token("s", False)}


def test_a_word_takes_the_place_of_a_near_one(tokenizer) -> None:
    table = directions(20, [[5, 6], [7, 8], [9, 10], [16, 17]])
    made = exchange_of(["good"] * RARE + ["great"] * RARE, tokenizer, table)
    assert made.near[Token("good", True)][0] == Token("great", True)
    chance = random.Random(0)
    assert "great" in {made.word("good", chance) for _ in range(40)}
    assert made.word("unknown", chance) is None


def test_capital_letters_are_kept(tokenizer) -> None:
    made = exchange_of(["Good", "GOOD"], tokenizer, directions(20, [[5, 6]]))
    chance = random.Random(0)
    assert {made.word("Good", chance) for _ in range(9)} == {"Great"}
    assert {made.word("GOOD", chance) for _ in range(9)} == {"GREAT"}


def test_a_number_for_a_number_and_a_piece_for_a_piece() -> None:
    words = ["call", "##ing", "##er", "##s", "1990", "1991", "12", "ring", "er", "##far", "##away", "##off", "##out"]
    tokenizer = wordpiece(words)
    table = directions(len(words) + 1, [[1, 8], [2, 3, 4], [5, 6, 7]])
    made = exchange_of(["calling", "1990"], tokenizer, table)
    chance = random.Random(3)
    assert {made.word("1990", chance) for _ in range(30)} == {"1991", "12"}
    assert {made.word("calling", chance) for _ in range(60)} == {"caller", "calls", "ringing"}


def test_the_whole_vocabulary_is_shown(tokenizer) -> None:
    """Every token that lies near one of the texts takes its place sooner or later, and the least used one comes first."""
    words = [f"{first}{second}" for first in "abcdefghij" for second in "klmnopqrst"]
    tokenizer = wordpiece(words)
    groups = [list(range(start + 1, start + 11)) for start in range(0, 100, 10)]
    table = directions(101, groups)
    shown = [words[group[0] - 1] for group in groups]
    texts = [" ".join(shown[start:] + shown[:start]) for start in range(10)]
    made = augment_texts(texts, num=400, seed=0, tokenizer=tokenizer, embeddings=table, methods=["replace"])
    counts = Counter(word for text in made for word in text.split())
    assert set(counts) == set(words)
    rare = [counts[word] for word in words if word not in shown]
    assert max(rare) <= 4 * min(rare)


def test_bytes_of_other_letters_are_never_offered() -> None:
    """In a byte-level vocabulary the letter é is the two characters Ã and ©, which spell nothing."""
    tokenizer = byte_level([("Ġ", "a"), ("Ġa", "b"), ("Ã", "©"), ("Ġ", "c"), ("Ġc", "d"), ("Ġ", "Ã©"), ("Ġ", "e"), ("Ġe", "f")])
    found = vocabulary(tokenizer, len(tokenizer))
    assert found
    assert all(token.surface.isascii() for token in found.values())
    marked = {token.surface for token in found.values() if token.begins}
    assert marked <= {"ab", "cd", "ef"}


@pytest.mark.parametrize("most", [3, 50_000])
def test_only_the_first_tokens_of_a_large_vocabulary_are_offered(tokenizer, monkeypatch, most: int) -> None:
    monkeypatch.setattr(exchange, "MOST_TOKENS", most)
    assert len(vocabulary(tokenizer, 20)) == min(most, 14)


def test_texts_without_words_of_the_vocabulary_stay_without_exchanges(tokenizer) -> None:
    assert not exchange_of(["nothing", "known"], tokenizer, directions(20, []))
