"""Token classification: words aligned over tokenizers, tags read in every form, entities counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import List as ListFeature
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForTokenClassification, BertConfig, PreTrainedTokenizerFast

from potstill.answers.judging import shared_units
from potstill.answers.tags import EntityCounts, entities_of
from potstill.data.row_files import ABSENT
from potstill.data.splits import load
from potstill.errors import DataError, ModelError
from potstill.evaluate.quality import predict
from potstill.exports.runtimes import TorchRunner
from potstill.knowledge.cache import CachedTeacher, write_cache
from potstill.knowledge.live import LiveTeacher
from potstill.modalities.text.augment_words import augment_words
from potstill.students.cut import cut_student
from potstill.students.plan import plan
from potstill.students.vocabulary import count_tokens, cut_vocabulary, required_ids
from potstill.tasks import build
from potstill.training.trainer import DistillationTrainer

NAMES = ("B-LOC", "I-LOC", "O")
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """WordPiece with whole words and letters, at most 24 tokens a row."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "oslo", "river", "in", "rain"]
    backend = Tokenizer(models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=24, **named)


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Tagged rows; some words become several tokens."""
    made = [
        {"tokens": ["in", "oslo", "river", "rain"], "tags": ["O", "B-LOC", "I-LOC", "O"]},
        {"tokens": ["abc", "oslo"], "tags": ["O", "B-LOC"]},
        {"tokens": ["rain", "in", "xyz", "river", "in"], "tags": ["O", "O", "B-LOC", "I-LOC", "O"]},
    ]
    return Dataset.from_list(made * 8)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    """A small teacher with random weights."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
        id2label=dict(enumerate(NAMES)),
        label2id={name: place for place, name in enumerate(NAMES)},
    )
    return AutoModelForTokenClassification.from_config(config).eval()


def tagging(names: Sequence[str] = ()) -> Any:
    """The task with these tags."""
    task = build("token-classification")
    task.label_names = names
    return task


def count_entities(true: Sequence[Sequence[str]], named: Sequence[Sequence[str]]) -> EntityCounts:
    """Counts over rows of tags, of both sides in the same order."""
    counts = EntityCounts()
    for one, other in zip(true, named, strict=True):
        counts.add(entities_of(one), entities_of(other))
    return counts


def _train(rows: Dataset) -> Dataset:
    return load(rows, task=tagging(), validation=rows, test=rows).train


def test_the_first_token_of_a_word_carries_its_tag(rows: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    encoded = tagging().encode(_train(rows), tokenizer, tmp_path / "rows")
    row = encoded[1]
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["[CLS]", "a", "##b", "##c", "oslo", "[SEP]"]
    assert row["unit_positions"].tolist() == [1, 4]
    batch = tagging().collator(tokenizer)([encoded[0], encoded[1]])
    assert batch["labels"].tolist() == [[2, 0, 1, 2], [2, 0, -100, -100]]


def test_words_beyond_the_window_are_absent_and_told(tokenizer: Any, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"tokens": ["abcdefgh"] * 4, "tags": ["O", "B-LOC", "I-LOC", "O"]}] * 8)
    encoded = tagging().encode(_train(rows), tokenizer, tmp_path / "rows")
    assert encoded[0]["unit_positions"].tolist() == [1, 9, 17, ABSENT]
    assert encoded[0]["labels"].tolist() == [2, 0, 1, -100]
    assert "8 of 32 words lie beyond 24 tokens" in encoded.notes[0]


def test_cached_answers_equal_live_ones_whatever_the_batch(rows: Dataset, tokenizer: Any, model: Any, tmp_path: Path) -> None:
    task = tagging(NAMES)
    encoded, collator = task.encode(_train(rows), tokenizer, tmp_path / "rows"), task.collator(tokenizer)
    live = LiveTeacher(model, dtype="float32")
    write_cache(live, encoded, collator, tmp_path / "cache", batch_size=4)
    cached = CachedTeacher.open(tmp_path / "cache")
    for chosen in ([0, 1, 2], [2, 1], [1]):
        batch = collator([encoded[index] for index in chosen])
        real = batch["unit_positions"] >= 0
        torch.testing.assert_close(cached.signal(batch).logits[real], live.signal(batch).logits[real], atol=1e-5, rtol=1e-5)


def test_a_cut_student_reads_other_tokens_and_the_same_words(rows: Dataset, tokenizer: Any, model: Any, tmp_path: Path) -> None:
    task, train = tagging(NAMES), _train(rows)
    encoded, collator = task.encode(train, tokenizer, tmp_path / "rows"), task.collator(tokenizer)
    counts = count_tokens([encoded.tokens], model.config.vocab_size)
    counts[tokenizer.convert_tokens_to_ids("river")] = 0
    planned = plan(model, ratio=0.3, token_counts=counts, required_ids=required_ids(tokenizer, counts))
    cut = cut_vocabulary(tokenizer, counts, len(tokenizer) - 1)
    planned = replace(planned, vocabulary=len(tokenizer) - 1)
    student = cut_student(model, planned, [collator([encoded[index] for index in range(6)])], vocabulary_cut=cut)
    assert type(student).__name__.endswith("ForTokenClassification")
    own = task.encode(train, cut.tokenizer, tmp_path / "own")
    assert len(own[0]["input_ids"]) > len(encoded[0]["input_ids"])
    theirs, ours = (
        predict(TorchRunner(m), e, task.collator(t), task.answers())
        for m, e, t in ((model, encoded, tokenizer), (student, own, cut.tokenizer))
    )
    assert np.array_equal(theirs.labels, ours.labels)
    first, second = shared_units(theirs, ours)
    assert first.logits.shape == second.logits.shape == (sum(encoded.num_units), 3)


def test_the_counted_parameters_of_a_planned_student_are_the_built_ones(model: Any) -> None:
    planned = plan(model, ratio=0.5)
    student = cut_student(model, planned, [{"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3)}])
    assert planned.parameters == sum(parameter.numel() for parameter in student.parameters())


def test_padding_and_batches_change_no_loss(rows: Dataset, tokenizer: Any, model: Any, tmp_path: Path) -> None:
    task = tagging(NAMES)
    encoded, collator = task.encode(_train(rows), tokenizer, tmp_path / "rows"), task.collator(tokenizer)
    student = AutoModelForTokenClassification.from_config(model.config)
    trainer = DistillationTrainer(
        student, teacher=LiveTeacher(model, dtype="float32"), losses=["kl", "ce"], train_dataset=encoded, data_collator=collator
    )
    trainer.prepare()
    student.eval()
    values = []
    for parts in ([[0, 1, 2]], [[0], [1], [2]]):
        sums = []
        for part in parts:
            batch = collator([encoded[index] for index in part])
            view, signal = trainer._reader.view(batch), trainer._signal(batch, ("logits",))
            sums.append([float(term.loss(view, signal, batch).sum) for term in trainer.objective.terms])
        values.append(np.sum(sums, axis=0))
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["B-LOC", "I-LOC", "O"], {("LOC", 0, 2)}),
        (["B-LOC", "B-LOC"], {("LOC", 0, 1), ("LOC", 1, 2)}),
        (["I-LOC", "I-PER"], {("LOC", 0, 1), ("PER", 1, 2)}),
        (["O", "I-LOC"], {("LOC", 1, 2)}),
        (["S-LOC", "B-PER", "E-PER"], {("LOC", 0, 1), ("PER", 1, 3)}),
        ([], set()),
    ],
)
def test_entities_begin_and_end_as_in_conlleval(tags: list[str], expected: set[Any]) -> None:
    assert entities_of(tags) == expected


def test_entity_scores_are_of_whole_entities() -> None:
    true = [["B-LOC", "I-LOC", "O", "B-PER"], ["O"]]
    named = [["B-LOC", "O", "O", "B-PER"], ["B-PER"]]
    counts = count_entities(true, named)
    assert counts.scores() == {"precision": pytest.approx(1 / 3), "recall": 0.5, "f1": pytest.approx(0.4)}
    assert count_entities(true, true).scores()["f1"] == 1
    assert count_entities(true, named).scores()["f1"] == count_entities(named, true).scores()["f1"]


def test_quality_ignores_padding_and_tags_without_entities_are_judged_by_accuracy() -> None:
    labels = np.array([[0, 1, 2], [2, -100, -100]])
    logits = np.eye(3)[np.maximum(labels, 0)] * 5
    logits[1, 1:] = [0, 9, 0]
    assert tagging(NAMES).quality(logits, labels) == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "accuracy": 1.0}
    plain = tagging(("NOUN", "VERB", "ADJ"))
    assert plain.metric == "accuracy"
    assert plain.quality(logits, labels)["accuracy"] == 1.0
    with pytest.raises(ModelError, match="have 3 tags, and 2 names"):
        tagging(("B-LOC", "O")).quality(logits, labels)


def test_tags_may_be_names_or_class_labels() -> None:
    feature = ListFeature(ClassLabel(names=["O", "B-LOC", "I-LOC"]))
    features = Features({"words": ListFeature(Value("string")), "ner_tags": feature})
    rows = Dataset.from_dict({"words": [["a", "b"]] * 20, "ner_tags": [[1, 2], [0, 0]] * 10}, features=features)
    splits = load(rows, task=build("token-classification"))
    assert splits.label_names == ("O", "B-LOC", "I-LOC")
    assert sorted(map(tuple, splits.train["label"]))[-1] == (1, 2)


def test_rows_with_more_words_than_tags_are_refused() -> None:
    rows = Dataset.from_list([{"tokens": ["a", "b"], "tags": ["O", "B-LOC"]}, {"tokens": ["a", "b"], "tags": ["O"]}] * 4)
    with pytest.raises(DataError, match="row 2 of the train split has 2 words and 1 tag"):
        load(rows, task=build("token-classification"))


def test_texts_in_place_of_words_are_refused_with_the_choices() -> None:
    rows = Dataset.from_list([{"tokens": "a b", "tags": ["O", "B-LOC"]}] * 4)
    with pytest.raises(DataError, match="no column looks like the tokens: 'tokens', 'tags'"):
        load(rows, task=build("token-classification"))


def test_augmented_rows_are_new_and_made_of_whole_words() -> None:
    rows = [["Oslo", "is", "wet", "in", "May", "."], ["Rain", "falls", "on", "Bergen"]]
    made = augment_words(rows, num=12, seed=3)
    assert made == augment_words(rows, num=12, seed=3)
    assert len({tuple(row) for row in made} | {tuple(row) for row in rows}) == len(made) + 2
    assert {word for row in made for word in row} <= {word for row in rows for word in row}
