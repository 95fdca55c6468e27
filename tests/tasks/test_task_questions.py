"""Extractive question answering: windows, spans in words, scores as SQuAD counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForQuestionAnswering, BertConfig, PreTrainedTokenizerFast

from potstill.answers.span import best_spans, exact_match, span_scores, text_f1
from potstill.data.splits import load
from potstill.data.words import words_of
from potstill.errors import DataError
from potstill.evaluate.quality import predict
from potstill.exports.runtimes import TorchRunner
from potstill.knowledge.cache import CachedTeacher, write_cache
from potstill.knowledge.live import LiveTeacher
from potstill.tasks import build

WORDS = [f"w{number}" for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Whole words, at most 32 tokens a row."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "who", ".", "?"]
    backend = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **named)


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Answers in short and long contexts, several, and none."""
    long = " ".join(WORDS) + "."
    return Dataset.from_list(
        [
            {"question": "who w1 ?", "context": "w1 w2 w3 .", "answers": {"text": ["w2 w3"], "answer_start": [3]}},
            {"question": "who w2 ?", "context": long, "answers": {"text": ["w38 w39"], "answer_start": [long.find("w38")]}},
            {"question": "who w3 ?", "context": "w5 w6", "answers": {"text": [], "answer_start": []}},
            {"question": "who w4 ?", "context": "w7 w8", "answers": {"text": ["w8", "w7 w8"], "answer_start": [3, 0]}},
        ]
        * 4
    )


@pytest.fixture(scope="module")
def windows(rows: Dataset, tokenizer: Any) -> Dataset:
    """The rows in windows."""
    task = build("question-answering")
    train = load(rows, task=task, validation=rows, test=rows).train
    made, note = task.modality.split_long(train, tokenizer, first_row_id=1000, split="train")
    assert "4 of 16 contexts" in note
    return made


def test_windows_overlap_reach_the_end_and_hold_each_answer(windows: Dataset, rows: Dataset) -> None:
    assert len(set(windows["row_id"])) == len(windows)
    for group in set(windows["group"]):
        parts = [row for row in windows if row["group"] == group]
        whole = rows[group]["context"]
        assert {word for part in parts for word in part["context"].split()} >= set(whole.split())
        texts = rows[group]["answers"]["text"]
        found = [_said(part) for part in parts if part["label"] != [0, 0]]
        assert found == [] if not texts else set(found) <= set(texts) and found


def _said(row: dict[str, Any]) -> str:
    words = words_of(row["context"])
    first, last = row["label"]
    return row["context"][words[first - 1][0] : words[last - 1][1]]


def test_answers_are_read_at_words_and_the_cache_gives_them_back(windows: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    task = build("question-answering")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = AutoModelForQuestionAnswering.from_config(config).eval()
    encoded = task.encode(windows, tokenizer, tmp_path / "rows")
    collator = task.collator(tokenizer)
    live = LiveTeacher(model, dtype="float32")
    write_cache(live, encoded, collator, tmp_path / "cache", batch_size=4)
    batch = collator([encoded[index] for index in (0, 1, 2)])
    expected = live.signal(batch).logits
    assert expected.shape[:2] == (3, 2)
    torch.testing.assert_close(CachedTeacher.open(tmp_path / "cache").signal(batch).logits, expected, atol=1e-5, rtol=1e-5)
    output = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch})
    last = int(batch["unit_ends"][0, 2])
    assert float(expected[0, 1, 2]) == pytest.approx(float(output.end_logits[0, last]), abs=1e-5)
    found = predict(TorchRunner(model), encoded, collator, task.answers())
    scores = task.answers().text_quality(found, windows)
    assert 0 <= scores["exact_match"] <= scores["f1"] <= 1


def test_perfect_answers_score_one(windows: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    task = build("question-answering")
    encoded = task.encode(windows, tokenizer, tmp_path / "rows")
    batch = task.collator(tokenizer)([encoded[index] for index in range(len(encoded))])
    logits = torch.nn.functional.one_hot(batch["labels"], batch["unit_positions"].shape[1]).float().numpy() * 9
    found = _Found(logits, batch["row_id"].numpy())
    assert task.quality(logits, batch["labels"].numpy()) == {"f1": 1.0, "exact_match": 1.0}
    assert task.answers().text_quality(found, windows) == {"f1": 1.0, "exact_match": 1.0}


class _Found:
    def __init__(self, logits: np.ndarray, row_ids: np.ndarray) -> None:
        self.logits, self.row_ids = logits, row_ids


def test_the_best_span_equals_a_search_over_all_pairs() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 2, 9))
    spans, lead = best_spans(logits, longest=4)
    for row, span, ahead in zip(logits, spans, lead):
        pairs = {(i, j): row[0, i] + row[1, j] for i in range(1, 9) for j in range(i, min(9, i + 4))}
        best = max(pairs, key=pairs.__getitem__)
        assert tuple(span) == best
        assert ahead == pytest.approx(pairs[best] - row[0, 0] - row[1, 0])


def test_scores_of_spans_and_texts() -> None:
    named, true = np.array([[1, 2], [0, 0], [3, 3]]), np.array([[2, 3], [0, 0], [0, 0]])
    scores = span_scores(named, true)
    assert scores["f1"].tolist() == [pytest.approx(0.5), 1, 0]
    assert scores["exact_match"].tolist() == [0, 1, 0]
    assert exact_match("The Red Car!", ["red car"]) == 1
    assert exact_match("", []) == 1
    assert exact_match("something", []) == 0
    assert text_f1("a red car", ["blue", "red boat"]) == pytest.approx(0.5)


def test_an_answer_that_is_not_in_its_context_is_refused() -> None:
    rows = Dataset.from_list([{"question": "who?", "context": "w1 w2", "answers": {"text": ["w9"], "answer_start": [0]}}] * 8)
    with pytest.raises(DataError, match="'w9' in row 1 of the train split does not stand at character 0"):
        load(rows, task=build("question-answering"))
