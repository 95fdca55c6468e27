"""Small models, rows and a small loss for the training tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from potstill.contracts.signal import TeacherSignal
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses.contract import Loss, LossValue, Shapes, StudentView

VOCABULARY, CLASSES = 50, 3


def encoder(
    *, width: int = 16, layers: int = 2, heads: int = 2, seed: int = 0, dropout: float = 0.0
) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=32,
        num_labels=CLASSES,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        classifier_dropout=dropout,
    )
    return BertForSequenceClassification(config)


def opinionated(*, width: int = 24, seed: int = 2) -> BertForSequenceClassification:
    """A teacher whose logits differ between rows."""
    model = encoder(width=width, seed=seed)
    with torch.no_grad():
        model.classifier.weight.mul_(40.0)
    return model


class Rows(Dataset):
    """Rows of ragged length; every fourth has no label."""

    def __init__(self, count: int = 24, *, seed: int = 0, with_lengths: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(3, 15, (count,), generator=generator).tolist()
        self.rows = [
            {
                "row_id": 100 + i,
                "input_ids": torch.randint(1, VOCABULARY, (length,), generator=generator),
                "labels": -100 if i % 4 == 3 else i % CLASSES,
            }
            for i, length in enumerate(lengths)
        ]
        if with_lengths:
            self.lengths = lengths

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "labels": torch.tensor([row["labels"] for row in rows]),
        "row_id": torch.tensor([row["row_id"] for row in rows]),
    }


class HiddenBridge(Loss):
    """Mean squared error of the last hidden states through a trained projection, per token."""

    kind = "feature"
    unit = "tokens"

    def needs_student(self) -> tuple[str, ...]:
        return ("hidden:-1",)

    def needs_teacher(self) -> tuple[str, ...]:
        return ("hidden:-1",)

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        assert teacher is not None
        self.bridge = nn.Linear(student.taps["hidden:-1"][-1], teacher.taps["hidden:-1"][-1])

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        assert teacher is not None
        difference = (self.bridge(student.taps["hidden:-1"]) - teacher.taps["hidden:-1"]).pow(2).mean(-1)
        mask = batch["attention_mask"]
        return LossValue((difference * mask).sum(), mask.sum())


class Explodes(Loss):
    """NaN from a given call on."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls_left = calls

    def needs_teacher(self) -> tuple[str, ...]:
        return ()

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        self.calls_left -= 1
        value = student.logits.pow(2).sum()
        return LossValue(value * float("nan") if self.calls_left < 0 else value, float(len(student.logits)))


class Remembered:
    """A source that finds the teacher's logits by row id."""

    provides = frozenset({"logits"})
    fingerprint = "remembered"

    def __init__(self, teacher: nn.Module, rows: Rows) -> None:
        with torch.no_grad():
            teacher.eval()
            batch = collate(rows.rows)
            logits = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        self.by_row = {int(row): values for row, values in zip(batch["row_id"], logits)}

    def signal(self, batch: Mapping[str, Any], needs: Collection[str]) -> TeacherSignal:
        return TeacherSignal(DenseLogits(torch.stack([self.by_row[int(row)] for row in batch["row_id"]])))


def arguments(folder: Any, **options: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 7,
        "lr_scheduler_type": "constant",
    }
    return TrainingArguments(**{**settings, **options})
