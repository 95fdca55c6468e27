"""Families that transformers saves under the names of their first release: what is loaded again is what was saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

from potstill.training.checkpoints import load_renamed
from potstill.training.trainer import DistillationTrainer


def vit(seed: int = 0) -> ViTForImageClassification:
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4, num_labels=2
    )
    return ViTForImageClassification(config)


ROWS = [
    {"pixel_values": torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(row)), "labels": row % 2} for row in range(24)
]


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def train(folder: Path, *, resume: bool = False, rate: float = 1e-2) -> DistillationTrainer:
    args = TrainingArguments(
        str(folder), num_train_epochs=3, save_steps=3, eval_strategy="steps", eval_steps=3, learning_rate=rate, report_to=[],
        use_cpu=True, load_best_model_at_end=True, metric_for_best_model="loss",
    )  # fmt: skip
    trainer = DistillationTrainer(vit(), args, losses=["ce"], train_dataset=ROWS, eval_dataset=ROWS[:8], data_collator=collate)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_resumed_and_best_weights_are_those_that_were_saved(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    best = ViTForImageClassification.from_pretrained(str(whole.state.best_model_checkpoint))
    for name, value in best.state_dict().items():
        assert torch.equal(whole.model.state_dict()[name], value), name
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "parts" / "checkpoint-3")
    resumed = train(tmp_path / "parts", resume=True)
    last = [load_file(tmp_path / run / "checkpoint-9" / "model.safetensors") for run in ("whole", "parts")]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert resumed.state.best_metric == whole.state.best_metric


def test_names_that_agree_are_left_alone(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    load_renamed(tmp_path, module)
    model = vit()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_renamed(tmp_path, model)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
