# %% [markdown]
# # A loss of your own
#
# A loss is a function of logits. This one compares the *order* of the teacher's classes: for each pair of classes, the one that the teacher
# prefers should be ahead in the student too.

# %%
import torch
from torch import nn
from transformers import TrainingArguments

from potstill import DistillationTrainer


def order(student_logits, teacher_logits, margin=0.5):
    """Mean over pairs of classes of how far the student is from the teacher's order, for each row."""
    ahead = (teacher_logits.unsqueeze(-1) - teacher_logits.unsqueeze(-2)).sign()
    gap = student_logits.unsqueeze(-1) - student_logits.unsqueeze(-2)
    return torch.relu(margin - ahead * gap).mul(ahead != 0).mean((-2, -1))


# %% [markdown]
# Before training with it, check that it is the same for a batch and for its halves.

# %%
student_logits, teacher_logits = torch.randn(8, 5), torch.randn(8, 5)
whole = order(student_logits, teacher_logits)
assert torch.allclose(
    whole, torch.cat([order(student_logits[:4], teacher_logits[:4]), order(student_logits[4:], teacher_logits[4:])])
)

# %% [markdown]
# ## In the trainer
#
# Any `torch.nn.Module` that returns logits can be teacher or student.

# %%
torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 5))

    def forward(self, x):
        return self.layers(x)


inputs = torch.randn(512, 20)
teacher = Net(128)
rows = [{"pixel_values": row, "labels": int(label)} for row, label in zip(inputs, teacher(inputs).argmax(-1), strict=True)]


def collate(batch):
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in batch]),
        "labels": torch.tensor([row["labels"] for row in batch]),
    }


def agreement(student: nn.Module) -> float:
    return float((student(inputs).argmax(-1) == teacher(inputs).argmax(-1)).float().mean())


student = Net(16)
before = agreement(student)
arguments = TrainingArguments(
    "trainer_output",
    num_train_epochs=20,
    per_device_train_batch_size=64,
    learning_rate=1e-2,
    report_to=[],
    disable_tqdm=True,
    save_strategy="no",
    use_cpu=True,
    logging_strategy="no",
)
trainer = DistillationTrainer(
    student,
    arguments,
    teacher=teacher,
    losses=[{"name": order, "weight": 1.0, "margin": 1.0}],
    train_dataset=rows,
    data_collator=collate,
)
trainer.train()
print(f"same class as the teacher: {before:.1%} before, {agreement(student):.1%} after")
assert agreement(student) > before
