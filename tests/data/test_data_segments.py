"""Long texts in overlapping segments, and their answers put together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from potstill.answers.units import pooled
from potstill.errors import DataError
from potstill.modalities.text.segments import segments_of, split_long


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Whole words, at most 34 tokens a row, two of them special."""
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=34)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("length", [1, 2, 9, 31, 100])
def test_segments_hold_every_word_within_the_size(length: int, size: int) -> None:
    words = [f"w{number}" for number in range(length)]
    text = " ".join(words)
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    offsets = [(int(end) - len(word), int(end)) for word, end in zip(words, ends)]
    parts = [part.split() for part in segments_of(text, offsets, size)]
    assert all(len(part) <= size for part in parts)
    assert list(dict.fromkeys(word for part in parts for word in part)) == words
    assert parts[-1][-1] == words[-1]


def test_only_long_texts_are_split_and_keep_label_and_group(tokenizer: Any) -> None:
    texts = ["short", " ".join(map(str, range(80))), " ".join(map(str, range(32)))]
    rows = Dataset.from_dict({"text": texts, "label": [0, 1, 0], "row_id": [10, 11, 12]})
    made, note = split_long(rows, tokenizer, first_row_id=50, split="train")
    assert "1 of 3 texts of the train split is longer than 34 tokens" in note
    assert made["row_id"][:3] == [10, 11, 50]
    assert set(made["row_id"]) == {10, 11, 12, *range(50, 50 + len(made) - 3)}
    assert [label for label, group in zip(made["label"], made["group"]) if group == 11] == [1] * (len(made) - 2)
    assert {word for text, group in zip(made["text"], made["group"]) if group == 11 for word in text.split()} == set(
        texts[1].split()
    )


def test_pairs_cannot_be_split(tokenizer: Any) -> None:
    rows = Dataset.from_dict({"text": ["a"], "text_pair": ["b"], "label": [0], "row_id": [0]})
    with pytest.raises(DataError, match="pairs of texts cannot be split into segments"):
        split_long(rows, tokenizer, first_row_id=1, split="train")


def test_answers_of_a_text_are_the_mean_of_its_segments_probabilities() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    groups = np.array([7, 3, 7, 3, 9])
    found, first = pooled(logits, groups)
    assert groups[first].tolist() == [7, 3, 9]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = [probabilities[groups == group].mean(0) for group in (7, 3, 9)]
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-5)


def test_rows_that_fit_are_left_as_they_are(tokenizer: Any) -> None:
    rows = Dataset.from_dict({"text": ["short"], "label": [0], "row_id": [10]})
    made, note = split_long(rows, tokenizer, first_row_id=50, split="train")
    assert made is rows
    assert note == ""
