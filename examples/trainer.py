"""DistillationTrainer with your own models: it is a transformers.Trainer with a teacher and a list of losses.

python examples/trainer.py
"""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep; before torch is loaded

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments, ViTConfig, ViTForImageClassification

from potstill import DistillationTrainer


class Quarters(Dataset):
    """8 x 8 images whose class is the quarter that is bright."""

    def __init__(self, num_rows: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(4, (num_rows,), generator=generator)
        self.images = torch.randn(num_rows, 3, 8, 8, generator=generator)
        for row, label in enumerate(self.labels.tolist()):
            self.images[row, :, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 2.0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor | int]:
        return {"pixel_values": self.images[row], "labels": int(self.labels[row]), "row_id": row}


def vision_transformer(width: int, num_layers: int) -> PreTrainedModel:
    """An untrained model for images of 8 x 8 pixels and four classes."""
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        image_size=8,
        patch_size=4,
        num_labels=4,
    )
    return ViTForImageClassification(config)


def arguments(epochs: int) -> TrainingArguments:
    """Settings of a short run on the processor."""
    return TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_steps=1000,
    )


@torch.inference_mode()
def accuracy(model: PreTrainedModel, rows: Quarters) -> float:
    """Share of rows that the model gets right."""
    return (model.eval()(pixel_values=rows.images).logits.argmax(dim=1) == rows.labels).float().mean().item()


def main() -> None:
    """Teach the teacher from labels, then the student from the teacher."""
    torch.manual_seed(0)
    train, test = Quarters(1024, seed=1), Quarters(512, seed=2)
    teacher, student = vision_transformer(48, 3), vision_transformer(16, 1)
    DistillationTrainer(model=teacher, args=arguments(6), teacher=None, losses=["ce"], train_dataset=train).train()
    losses = [{"name": "kl", "weight": 0.7, "temperature": 2.0}, {"name": "ce", "weight": 0.3}]
    DistillationTrainer(model=student, args=arguments(12), teacher=teacher, losses=losses, train_dataset=train).train()
    for name, model in (("teacher", teacher), ("student", student)):
        print(f"{name}: {model.num_parameters():,} parameters, accuracy {accuracy(model, test):.3f}")


if __name__ == "__main__":
    main()
