"""Augmented texts: new, repeatable, pairs right, Chinese too, never a special token."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from potstill.errors import DataError
from potstill.modalities.text.augment import augment_texts, augmented_rows, deleted, nearest_words, replaced, run_of, whole_words

TEXTS = [
    "the film was good",
    "a bad movie, was it",
    "Great film is great!",
    "the movie is awful",
    "good bad good film was a movie",
]
CHINESE = ["电影好，好电影", "坏电影，电影坏", "好坏好坏电影"]


@pytest.fixture
def embeddings() -> np.ndarray:
    """Unit directions for the tiny vocabulary: good ~ great, bad ~ awful, film ~ movie, 好 ~ 坏."""
    table = np.eye(20, 24, dtype=np.float32)
    for first, second in ((5, 6), (7, 8), (9, 10), (16, 17)):
        table[second] = 0.9 * table[first] + 0.1 * table[second]
    return table


@pytest.mark.parametrize("is_replaced", [True, False])
@pytest.mark.parametrize("texts", [TEXTS, CHINESE], ids=["english", "chinese"])
def test_results_are_new_different_and_repeatable(is_replaced: bool, texts: list[str], tokenizer, embeddings: np.ndarray) -> None:
    options = {"num": 6, "seed": 1, "tokenizer": tokenizer, "embeddings": embeddings if is_replaced else None}
    made = augment_texts(texts, **options)
    assert 1 <= len(made) <= 6
    assert len(set(made)) == len(made)
    assert not set(made) & set(texts)
    assert made == augment_texts(texts, **options)
    assert not any(token in text for text in made for token in ("[", "##", "  "))


def test_words_are_replaced_by_their_neighbours(tokenizer, embeddings: np.ndarray) -> None:
    near, chance = nearest_words(["Good", "film"], tokenizer, embeddings), Random(0)
    made = {"".join(replaced(["the ", "Good ", "film"], near, chance)) for _ in range(50)}
    assert made == {"the Good film", "the Great film", "the Good movie", "the Great movie"}
    near = nearest_words(["good", "好", "unknown"], tokenizer, embeddings, count=3)
    assert near["good"][0] == "great"
    assert near["好"][0] == "坏"
    assert "unknown" not in near


def test_pairs_change_one_side_at_a_time(tokenizer, embeddings: np.ndarray) -> None:
    pairs = [(first, f"so {number}, {first}") for number, first in enumerate(TEXTS)]
    made = augment_texts(pairs, num=60, seed=0, tokenizer=tokenizer, embeddings=embeddings)
    assert len(made) > 30
    firsts, seconds = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    assert all((first in firsts) != (second in seconds) for first, second in made if (first, second) not in pairs)


def test_deletion_and_runs_keep_the_order_of_words() -> None:
    chance, units = Random(0), [f"{letter} " for letter in "abcdefgh"]
    for change in [deleted, run_of] * 20:
        made = change(units, [], chance)
        assert made == sorted(made)


def test_only_whole_words_can_be_chosen(tokenizer) -> None:
    assert set(whole_words(tokenizer, 20)) == {
        "good",
        "great",
        "bad",
        "awful",
        "film",
        "movie",
        "the",
        "was",
        "is",
        "好",
        "坏",
        "电",
        "影",
    }


def test_bytes_of_other_letters_are_no_words() -> None:
    """In a byte-level vocabulary é is the two characters Ã and ©, which spell nothing."""
    merges = [("Ġ", "a"), ("Ġa", "b"), ("Ã", "©"), ("Ġ", "c"), ("Ġc", "d"), ("Ġ", "Ã©"), ("Ġ", "e"), ("Ġe", "f"), ("Ã", "Ń")]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    table = {token: number for number, token in enumerate([*letters, *("".join(pair) for pair in merges), "ĠÃŃ"])}
    backend = Tokenizer(models.BPE(table, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = whole_words(PreTrainedTokenizerFast(tokenizer_object=backend), len(table))
    assert set(found) == {"ab", "cd", "ef"}


def test_too_short_texts_give_fewer() -> None:
    assert augment_texts(["a"], num=5, seed=0) == ["a a"]


def test_rows_for_the_teacher_to_label() -> None:
    rows = augmented_rows([("a", "b"), ("c", "d")], first_row_id=7)
    assert rows[1] == {"text": "c", "text_pair": "d", "label": -100, "row_id": 8}


def test_no_texts_are_refused() -> None:
    with pytest.raises(DataError, match="no texts to augment"):
        augment_texts([], num=1, seed=0)
