"""A modality and a kind of answers that are not Potstill's own: rows of numbers, and levels in an order."""

# N rows, B batch, D numbers of a row, L levels

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from potstill.answers.base import RowAnswers, known_means, known_numbers
from potstill.answers.class_labels import raw_labels
from potstill.answers.judging import Closeness, KeptRows, Worst, furthest, labelled
from potstill.answers.one_class import OneClass
from potstill.contracts.answers import NO_LABEL
from potstill.data.arrow import table_of

LEVELS = ("low", "middle", "high")


class Table:
    """Rows of numbers in columns whose names begin with ``x``."""

    name = "table"
    roles = ("values",)
    column_names = ("values",)
    noun = "numbers"
    processor_noun = "a scaler"
    has_tokens = can_augment = is_windowed = can_turn = False

    def find_content(self, features, roles, *, taken=None) -> dict[str, str]:
        return {**roles, "values": roles.get("values", "values")}

    def read_folder(self, folder, files, *, labelled):
        return None

    def read(self, dataset, roles, split, notes, *, folder, skip_corrupt, start=0):
        return pa.table({"values": table_of(dataset, [roles["values"]]).column(0)}), None

    def load_processor(self, name_or_path, *, model_config=None) -> float:
        return 1.0

    def reading(self, processor, max_tokens):
        return {}

    def check_reads(self, name, config, processor) -> None:
        pass

    def fitted(self, processor, config):
        return None

    def split_long(self, dataset, processor, **options):
        return dataset, ""

    def encode(self, dataset: Dataset, processor: float, folder: Path, *, max_tokens=None) -> Numbers:
        return Numbers(dataset, processor)

    def collator(self, processor):
        return collated

    def see(self, rows) -> None:
        pass

    def middle(self, rows) -> None:
        return None

    def example_inputs(self, model, *, batch=1, tokens=None) -> dict[str, Tensor]:
        return {"values": torch.zeros(batch, model.config.num_values)}

    def dynamic_axes(self, model) -> dict[str, dict[int, str]]:
        return {"values": {0: "batch"}}

    def text_of(self, row) -> str:
        return ", ".join(f"{value:.3g}" for value in row["values"])

    def shown(self, row) -> dict[str, str]:
        return {"text": self.text_of(row)}

    def augmented(self, rows, **options) -> list[Any]:
        return []

    def augmented_rows(self, made, *, first_row_id, no_label) -> Dataset:
        return Dataset.from_list([])

    def passes(self, *, has_maps: bool) -> tuple[float, float]:
        return 4.0, 1e-2


class Numbers(TorchDataset):
    """Encoded rows in memory."""

    groups = None

    def __init__(self, dataset: Dataset, scale: float) -> None:
        self.values = np.asarray(dataset["values"], np.float32).reshape(len(dataset), 4) * scale
        self.labels = np.asarray(dataset["label"])
        self.row_ids = np.asarray(dataset["row_id"], np.int64)
        self.lengths = np.ones(len(dataset), np.int32)

    def __len__(self) -> int:
        return len(self.row_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"row_id": int(self.row_ids[index]), "labels": self.labels[index], "values": self.values[index]}

    def __getitems__(self, indices) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


def collated(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """``values`` [B, D], ``labels`` [B, L − 1] and ``row_id`` [B]."""
    return {
        "values": torch.from_numpy(np.stack([row["values"] for row in rows])),
        "labels": torch.from_numpy(np.stack([np.asarray(row["labels"], np.float32) for row in rows])),
        "row_id": torch.tensor([row["row_id"] for row in rows]),
    }


class LevelMap:
    """Takes the names of levels to rows of 0 and 1: whether the level is beyond the first, the second …"""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def positions(self, raw, split) -> np.ndarray:
        places = np.array([LEVELS.index(name) for name in raw])
        return (places[:, None] > np.arange(len(LEVELS) - 1)).astype(np.float32)


class Ordinal(RowAnswers):
    """One of several levels that have an order: L − 1 outputs, each whether the level is beyond one of them."""

    kind = reported = "ordinal"
    noun = "levels in an order"
    from_labels = MappingProxyType({"name": "bce", "target": "labels"})
    from_teacher = ({"name": "bce"},)

    find_columns = OneClass.find_columns

    def read(self, dataset, roles, split) -> list[Any]:
        return raw_labels(dataset, roles["label"], split)

    def named(self, found, content, rows) -> pa.Table:
        beyond = (found.logits > 0).sum(-1)
        return pa.table({"prediction": pa.array([LEVELS[number] for number in beyond], pa.string())})

    def order(self, raw, roles, feature, given):
        return LEVELS, LevelMap()

    def known(self, names, raw, roles) -> LevelMap:
        return LevelMap()

    def missing(self, count, names) -> np.ndarray:
        return np.full((count, len(LEVELS) - 1), NO_LABEL, np.float32)

    def strata(self, values) -> np.ndarray:
        return values.sum(1).astype(np.int64)

    def uncertainty(self, logits: Tensor, mask=None) -> Tensor:
        p = logits.sigmoid()
        return (4 * p * (1 - p)).mean(-1)

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        return (teacher.sigmoid() - student.sigmoid()).square().mean(-1)

    def label_distance(self, logits: Tensor, labels: Tensor) -> Tensor:
        wanted, is_known = known_numbers(logits, labels)  # type: ignore[misc]
        return known_means(F.binary_cross_entropy_with_logits(logits, wanted, reduction="none"), is_known)

    def closeness(self, student, teacher) -> dict[str, float]:
        return {"teacher_steps": float(np.abs((student > 0).sum(1) - (teacher > 0).sum(1)).mean())}

    def judge(self) -> LevelJudge:
        return LevelJudge()


class LevelJudge(KeptRows):
    """Accuracy of levels, and by how many levels answers are off."""

    def quality(self) -> dict[str, float]:
        logits, labels = labelled(self["logits"], self["labels"])
        off = np.abs((logits > 0).sum(1) - (labels > 0.5).sum(1))
        return {"accuracy": float((off == 0).mean()), "steps": float(off.mean())}

    def closeness(self) -> Closeness:
        same = (self["logits"] > 0).sum(1) == (self["teacher"] > 0).sum(1)
        return Closeness(agreement=float(same.mean()))

    def worst(self, names, count) -> list[Worst]:
        off = np.abs((self["logits"] > 0).sum(1) - (self["labels"] > 0.5).sum(1)).astype(float)
        return [Worst(int(self["row_ids"][at]), "", "", "") for at in furthest(off, count)]

    def row_sums(self, metric) -> None:
        return None


class TableConfig(PreTrainedConfig):
    """Of `TableNetForLevels`."""

    model_type = "potstill_test_table"

    def __init__(self, num_values: int = 4, width: int = 16, **others: Any) -> None:
        super().__init__(**others)
        self.num_values, self.width = num_values, width


class TableNetForLevels(PreTrainedModel):
    """A net of two layers on rows of numbers."""

    config_class = TableConfig

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self.body = nn.Sequential(nn.Linear(config.num_values, config.width), nn.Tanh())
        self.head = nn.Linear(config.width, len(LEVELS) - 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def forward(self, values: Tensor) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.head(self.body(values)))


def table_rows(count: int = 90, seed: int = 0) -> Dataset:
    """Rows whose level follows from the sum of their numbers."""
    values = np.random.default_rng(seed).normal(size=(count, 4))
    levels = np.digitize(values.sum(1), [-1.0, 1.0])
    return Dataset.from_dict({"values": values.tolist(), "label": [LEVELS[level] for level in levels]})
