"""One optimizer step under torchrun-like ranks; writes the gradients of the first rank.

Usage: python rank_step.py RANK RANKS BATCH ACCUMULATION PORT FILE
"""

from __future__ import annotations

import os
import sys

rank, ranks, batch, accumulation, port, file = sys.argv[1:]
os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=ranks, LOCAL_WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)

import torch  # noqa: E402
from small_models import HiddenBridge, Rows, arguments, collate, encoder, opinionated  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from potstill.training.terms import Term  # noqa: E402
from potstill.training.trainer import DistillationTrainer  # noqa: E402


class Gradients(TrainerCallback):
    """Keeps the gradients of the one step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        module = model.module if hasattr(model, "module") else model
        self.kept = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


kept = Gradients()
trainer = DistillationTrainer(
    encoder(seed=1),
    arguments(
        os.path.dirname(file),
        per_device_train_batch_size=int(batch),
        gradient_accumulation_steps=int(accumulation),
        max_steps=1,
        max_grad_norm=0.0,
        ddp_backend="gloo" if int(ranks) > 1 else None,
    ),
    teacher=opinionated(),
    losses=["kl", {"name": "ce", "weight": 0.5}, Term("hint", HiddenBridge())],
    train_dataset=Rows(8),
    data_collator=collate,
    callbacks=[kept],
)
trainer.train()
metrics = trainer.evaluate(Rows(7, seed=3))
if int(rank) == 0:
    logged = {name: value for name, value in trainer.state.log_history[0].items() if name.startswith("loss")}
    torch.save({"gradients": kept.kept, "logged": logged, "eval_loss": metrics["eval_loss"]}, file)
