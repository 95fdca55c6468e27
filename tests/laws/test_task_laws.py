"""Every task, modality and kind of answers keeps its laws, and so do others that are added to the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast, TrainingArguments, ViTConfig, ViTImageProcessor

from laws.check_task import check_answers, check_modality, check_task
from laws.toy_task import LEVELS, TableConfig, TableNetForLevels, table_rows
from potstill import DistillationTrainer, answers, modalities, tasks
from potstill.models.load import new_model

N, C = 24, 3
WORDS = [f"w{number}" for number in range(20)]


def sample(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Answers of two models [N, …], labels and the names of labels."""
    chance = np.random.default_rng(0)
    names: tuple[str, ...] = (
        ("B-x", "I-x", "O") if kind == "tags" else ("a/1", "a/2", "b/1") if kind == "tasks" else ("a", "b", "c")
    )
    shape = {"tags": (N, 5, C), "span": (N, 2, 7)}.get(kind, (N, C))
    logits, teacher = (chance.normal(size=shape).astype(np.float32) * 2 for _ in range(2))
    classes = chance.integers(0, C, N)
    labels: Any = {
        "labels": (chance.random((N, C)) < 0.4).astype(np.float32),
        "numbers": chance.normal(size=(N, C)).astype(np.float32),
        "embedding": chance.random(N // 2).repeat(2)[:, None].astype(np.float32),
        "tags": chance.integers(0, C, (N, 5)),
        "span": np.sort(chance.integers(1, 7, (N, 2)), axis=1),
        "ordinal": (classes[:, None] > np.arange(2)).astype(np.float32),
    }.get(kind, classes)
    if kind == "ordinal":
        return logits[:, :2], teacher[:, :2], labels, LEVELS
    return logits, teacher, labels, names


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A modality, a kind of answers and a task in the tables."""
    monkeypatch.setitem(modalities.MODALITIES, "table", "laws.toy_task:Table")
    monkeypatch.setitem(answers.ANSWERS, "ordinal", "laws.toy_task:Ordinal")
    monkeypatch.setitem(tasks.TASKS, "levels", type(tasks.TASKS["regression"])("table", "ordinal", "ForLevels"))


@pytest.mark.parametrize("kind", [*answers.ANSWERS, "ordinal"])
def test_answers(kind: str, toys: None) -> None:
    logits, teacher, labels, names = sample(kind)
    check_answers(answers.build(kind, names), logits, teacher, labels, parts=[4, 10, 16])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Whole words, at most 32 tokens a row."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    backend = Tokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **named)


def rows_of(name: str) -> Dataset:
    """Labelled rows of a task, of lengths that differ."""
    row = tasks.TASKS[name]
    if row.modality == "table":
        return table_rows()
    chance = np.random.default_rng(1)
    words = [[str(word) for word in chance.choice(WORDS, chance.integers(2, 8))] for _ in range(N)]
    texts = [" ".join(row) for row in words]
    labels: dict[str, Any] = {
        "class": ["yes" if index % 2 else "no" for index in range(N)],
        "labels": [["a"] if index % 2 else ["a", "b"] for index in range(N)],
        "numbers": [index + 0.5 for index in range(N)],
        "embedding": [0.5] * N,
        "tags": [["B-x" if place else "O" for place in range(len(row))] for row in words],
        "span": [{"text": [row[-1]], "answer_start": [text.rfind(row[-1])]} for row, text in zip(words, texts)],
    }
    held: dict[str, Any] = {"label": labels[row.answers]}
    if row.modality == "image":
        pixels = [Pillow.fromarray(chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(N)]
        return Dataset.from_dict({"image": pixels, **held}).cast_column("image", Image())
    if row.modality == "words":
        return Dataset.from_dict({"tokens": words, "tags": held["label"]})
    if row.modality == "questions":
        return Dataset.from_dict({"question": texts, "context": texts, "answers": held["label"]})
    if row.answers == "embedding":
        return Dataset.from_dict({"text": texts}, features=Features({"text": Value("string")}))
    return Dataset.from_dict({"text": texts, **held})


def processor_of(name: str, tokenizer: Any) -> Any:
    """What reads the rows of a task."""
    return {"image": ViTImageProcessor(size={"height": 16, "width": 16}), "table": 1.0}.get(tasks.TASKS[name].modality, tokenizer)


def model_of(name: str, width: int) -> Any:
    """A small model with the task's head."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    row = tasks.TASKS[name]
    if row.modality == "table":
        return TableNetForLevels(TableConfig()).eval()
    if row.modality == "image":
        return new_model(tasks.build(name), ViTConfig(**small, image_size=16, patch_size=8, num_labels=width))
    return new_model(tasks.build(name), BertConfig(**small, vocab_size=30, max_position_embeddings=40, num_labels=width))


@pytest.mark.parametrize("name", [*tasks.TASKS, "levels"])
def test_tasks_and_modalities(name: str, toys: None, tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows, processor = rows_of(name), processor_of(name, tokenizer)
    check_modality(tasks.build(name).modality, rows, processor, tmp_path)
    names = {"labels": ("a", "b"), "numbers": ("label",), "class": ("no", "yes"), "tags": ("B-x", "I-x", "O")}
    held = names.get(tasks.TASKS[name].answers, ("a", "b"))
    check_task(tasks.build(name), rows, processor, model_of(name, len(held)), tmp_path, label_names=held)


def test_every_modality_has_a_task() -> None:
    """So that the laws above walk the whole table."""
    assert {row.modality for row in tasks.TASKS.values()} == set(modalities.MODALITIES)


def test_other_rows_and_answers_are_taught(toys: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = tasks.build("levels")
    from potstill.data import load

    splits = load(table_rows(300), task=task)
    encoded = {name: task.encode(getattr(splits, name), 1.0, tmp_path) for name in ("train", "test")}
    teacher, student = TableNetForLevels(TableConfig(width=32)), TableNetForLevels(TableConfig(width=8))
    arguments = TrainingArguments(
        str(tmp_path / "out"), num_train_epochs=30, learning_rate=3e-2, per_device_train_batch_size=32, report_to=[], use_cpu=True
    )
    for model, source in ((teacher, None), (student, teacher)):
        trainer = DistillationTrainer(
            model,
            arguments,
            teacher=source,
            train_dataset=encoded["train"],
            eval_dataset=encoded["test"],
            data_collator=task.collator(1.0),
            compute_metrics=lambda found: task.quality(found.predictions, found.label_ids),
            rows={"focus": "teacher_uncertainty"} if source is not None else None,
        )
        assert trainer.answers.kind == "ordinal"
        trainer.train()
        figures = trainer.evaluate()
        assert figures["eval_accuracy"] > 0.7
    assert figures["eval_teacher_steps"] < 0.3
